"""VMamba and 2DVMamba: a pyramid of four stages of scanned blocks, any width, depth and size.

Names and shapes of parameters are those of the published checkpoints, which hold nothing
that tells the two apart: the scan is an argument. Maps are ``(batch, H, W, channels)`` within
blocks, so that projections and the scan read whole cells; ``(batch, channels, H, W)`` outside.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from napari_2dmamba.vision.cross_scan import SCANS, Scan, cross_scan

_SMALLEST_DT, _LARGEST_DT, _DT_FLOOR = 1e-3, 0.1, 1e-4


class VisionMamba(nn.Module):
    """The backbone with its classifier.

    Parameters
    ----------
    scan
        ``"2d"``: 2DVMamba. ``"1d"``: VMamba. ``"2d-four-corners"``: the 2D scan from every
        corner, so that a block reaches all four quadrants; weights trained with another scan
        load, and mean something else.
    depths, dims
        Blocks and channels of each stage; one number of ``dims`` is that of the first, doubled
        from stage to stage.
    ssm_ratio, d_state
        Channels of the scan per channel of the stage, and states per channel.
    mlp_ratio
        Width of a block's second half.
    num_classes
        0 for no classifier: `forward` then returns pooled features.
    in_chans
        Channels of the image.
    drop_path_rate
        Chance that a block is passed by in training, of the last one; it grows linearly.
    drop_rate
        Dropout before the classifier's last layer.
    global_pool
        ``"avg"``, or ``""`` for maps in place of vectors.

    Attributes
    ----------
    feature_info
        Channels and stride of each stage, as timm states them.
    """

    def __init__(
        self,
        *,
        scan: Scan = "2d",
        depths: Sequence[int] = (2, 2, 8, 2),
        dims: int | Sequence[int] = 96,
        ssm_ratio: float = 1.0,
        d_state: int = 1,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.2,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if scan not in SCANS:
            raise ValueError(f"scan is {scan!r}, but must be one of {', '.join(SCANS)}")
        if isinstance(dims, int):
            dims = [dims * 2**i for i in range(len(depths))]
        if len(dims) != len(depths):
            raise ValueError(f"dims has {len(dims)} stages, but depths has {len(depths)}")
        _check_pool(global_pool)
        self.scan: Scan = scan
        self.depths, self.dims = tuple(depths), tuple(dims)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = dims[-1]
        self.drop_rate, self.global_pool = drop_rate, global_pool
        self.grad_checkpointing = False
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"layers.{i}.blocks"}
            for i, dim in enumerate(dims)
        ]
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()
        self.patch_embed = _PatchEmbedding(in_chans, dims[0])
        stages = []
        for depth, dim, following in zip(depths, dims, [*dims[1:], None], strict=True):
            blocks = [
                Block(dim, scan, ssm_ratio, d_state, mlp_ratio, rates.pop(0)) for _ in range(depth)
            ]
            stages.append(_Stage(blocks, dim, following))
        self.layers = nn.Sequential(*stages)
        self.classifier = _Classifier(self.num_features, num_classes)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(batch, num_classes)`` of ``(batch, in_chans, height, width)``."""
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the last stage's map ``(batch, C, h, w)``, before the classifier's norm."""
        return self.forward_stages(image)[-1]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits of a last map; its pooled features with ``pre_logits``."""
        x = self.classifier.norm(features.permute(0, 2, 3, 1))
        x = x.mean((1, 2)) if self.global_pool else x.permute(0, 3, 1, 2)
        if pre_logits or isinstance(self.classifier.head, nn.Identity):
            return x
        x = functional.dropout(x, self.drop_rate, self.training)
        return self.classifier.head(x)

    def forward_stages(self, image: Tensor, last: int | None = None) -> list[Tensor]:
        """Return the map of every stage, before it is halved, as ``(batch, C, h, w)``.

        Parameters
        ----------
        image
            ``(batch, in_chans, height, width)``, any size; stages have strides of 4, 8, 16, 32,
            rounded up.
        last
            Index of the last stage to compute; None for all.
        """
        x = self.patch_embed(image.contiguous(memory_format=torch.channels_last))
        x = x.permute(0, 2, 3, 1)
        end = len(self.layers) if last is None else last + 1
        maps = []
        for i, stage in enumerate(self._stages()):
            for block in stage.blocks:
                if self.grad_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            maps.append(x.permute(0, 3, 1, 2))
            if i + 1 == end:
                break
            x = stage.downsample(maps[-1]).permute(0, 2, 3, 1)
        return maps

    # What timm's tools ask of a model

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the maps of some stages, and the last one, as timm's models do.

        Parameters
        ----------
        x
            The image, ``(batch, in_chans, height, width)``.
        indices
            Stages; a number means so many last ones, None all.
        norm
            Whether the classifier's norm is applied to the last stage.
        stop_early
            Whether later stages are left out.
        output_fmt
            ``"NCHW"``, the only one.
        intermediates_only
            Whether the last map is left out.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}, but only NCHW is there")
        wanted = self._stages_named(indices)
        stages = self.forward_stages(x, max(wanted) if stop_early or intermediates_only else None)
        shown = list(stages)
        if norm and len(stages) == len(self.depths):
            normed = self.classifier.norm(stages[-1].permute(0, 2, 3, 1))
            shown[-1] = normed.permute(0, 3, 1, 2)
        maps = [shown[i] for i in wanted]
        return maps if intermediates_only else (stages[-1], maps)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what `forward_intermediates` does not need for some stages; return their indices."""
        wanted = self._stages_named(indices)
        if max(wanted) + 1 < len(self.layers):
            self.layers = nn.Sequential(*self._stages()[: max(wanted) + 1])
        self._stages()[-1].downsample = nn.Identity()
        if prune_norm:
            self.classifier.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def _stages(self) -> list["_Stage"]:
        return cast(list[_Stage], list(self.layers))

    def _stages_named(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.layers)
        if indices is None:
            return list(range(count))
        named = range(count - indices, count) if isinstance(indices, int) else indices
        found = [i + count if i < 0 else i for i in named]
        if not found or min(found) < 0 or max(found) >= count:
            raise ValueError(f"stages {list(named)} were asked for, but there are {count}")
        return found

    def get_classifier(self) -> nn.Module:
        """Return the classifier's last layer."""
        return self.classifier.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new last layer, or none for 0 classes."""
        if global_pool is not None:
            _check_pool(global_pool)
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = next(self.parameters())
        self.classifier.head = _head(self.num_features, num_classes)
        self.classifier.head.apply(_initialise)
        self.classifier.head.to(like.device, like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks again in the backward pass of training instead of keeping them."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay would spoil: rates of decay, and skips."""
        return {n for n, _ in self.named_parameters() if n.endswith((".A_logs", ".Ds"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Say how parameters go together, for timm's layer-wise learning rates."""
        blocks = r"^layers\.(\d+)" if coarse else r"^layers\.(\d+)\.blocks\.(\d+)"
        return {
            "stem": r"^patch_embed",
            "blocks": [
                (blocks, None),
                (r"^layers\.(\d+)\.downsample", (0,)),
                (r"^classifier", (99999,)),
            ],
        }


class CrossScanBlock(nn.Module):
    """The scanned half of a block: projection, depthwise convolution, four scans, projection.

    Maps ``(batch, H, W, dim)`` to the same shape.
    """

    def __init__(self, dim: int, scan: Scan, ssm_ratio: float, d_state: int) -> None:
        super().__init__()
        inner, self.dt_rank = int(dim * ssm_ratio), math.ceil(dim / 16)
        self.scan: Scan = scan
        self.in_proj = nn.Linear(dim, inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        bound = inner**-0.5
        projections = torch.empty(4, self.dt_rank + 2 * d_state, inner)
        self.x_proj_weight = nn.Parameter(projections.uniform_(-bound, bound))
        bound = self.dt_rank**-0.5
        weights = torch.empty(4, inner, self.dt_rank)
        self.dt_projs_weight = nn.Parameter(weights.uniform_(-bound, bound))
        low, high = math.log(_SMALLEST_DT), math.log(_LARGEST_DT)
        dt = torch.exp(torch.empty(4, inner).uniform_(low, high)).clamp(min=_DT_FLOOR)
        self.dt_projs_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus gives dt
        rates = torch.arange(1, d_state + 1, dtype=torch.float32).log()
        self.A_logs = nn.Parameter(rates.repeat(4 * inner, 1))
        self.Ds = nn.Parameter(torch.ones(4 * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's change of ``(batch, H, W, dim)``."""
        x = self.in_proj(x)
        x = functional.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        rank, states = self.dt_rank, self.A_logs.shape[1]
        projected = functional.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(3, (4, -1))
        dt, B, C = projected.split((rank, states, states), dim=4)
        dt = torch.einsum("bhwkr,kdr->bhwkd", dt, self.dt_projs_weight)
        # The state decays in float32 at least, whatever the rest is stored in
        state = torch.float64 if self.A_logs.dtype == torch.float64 else torch.float32
        A = -torch.exp(self.A_logs.to(state)).unflatten(0, (4, -1))
        D, bias = self.Ds.unflatten(0, (4, -1)), self.dt_projs_bias
        y = cross_scan(x, dt, A, B, C, D, bias, self.scan)
        return self.out_proj(self.out_norm(y))


class Block(nn.Module):
    """Four scans, then a multilayer perceptron, each added to what it was given."""

    def __init__(
        self,
        dim: int,
        scan: Scan,
        ssm_ratio: float,
        d_state: int,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = CrossScanBlock(dim, scan, ssm_ratio, d_state)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, H, W, dim)`` to the same shape."""
        x = x + self._dropped(self.op(self.norm(x)))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, change: Tensor) -> Tensor:
        """Stochastic depth: in training, leave the change out for some images."""
        if not (self.training and self.drop_path):
            return change
        kept = 1 - self.drop_path
        mask = change.new_empty(len(change), 1, 1, 1).bernoulli_(kept)
        return change * (mask / kept)


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class _Classifier(nn.Module):
    """Norm and last layer; `VisionMamba.forward_head` says what happens between them."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(features)
        self.head = _head(features, classes)


class Norm2d(nn.LayerNorm):
    """Layer norm over the channels of ``(batch, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _PatchEmbedding(nn.Sequential):
    """Two convolutions of stride 2; the positions 1, 3 and 6 hold nothing in checkpoints."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1),
            nn.Identity(),
            Norm2d(dim // 2),
            nn.Identity(),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
            nn.Identity(),
            Norm2d(dim),
        )


class _Stage(nn.Module):
    """Blocks at one size, and what halves the map for the next stage."""

    def __init__(self, blocks: list[Block], dim: int, next_dim: int | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample: nn.Module = nn.Identity()
        if next_dim is not None:
            self.downsample = nn.Sequential(
                nn.Identity(),
                nn.Conv2d(dim, next_dim, 3, stride=2, padding=1),
                nn.Identity(),
                Norm2d(next_dim),
            )


def _check_pool(global_pool: str) -> None:
    if global_pool not in ("avg", ""):
        raise ValueError(f"global_pool is {global_pool!r}, but must be 'avg' or ''")


def _head(features: int, classes: int) -> nn.Module:
    return nn.Linear(features, classes) if classes else nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
