"""UPerNet on the backbone (Xiao et al., ECCV 2018), with the names of mmsegmentation's weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.vision.backbone import Norm2d, VisionMamba
from napari_2dmamba.vision.cross_scan import Scan
from napari_2dmamba.vision.weights import load_whole, read_state, sizes_of

_POOLS = (1, 2, 3, 6)


class Segmenter(nn.Module):
    """The backbone, a norm per stage, the head, and a second head for training.

    Parameters
    ----------
    backbone
        Its classifier is not used and may be absent.
    num_classes
        K.
    channels
        Width of the head.
    auxiliary_channels
        Width of the head for training, on the last stage but one; 0 for none.
    """

    def __init__(
        self,
        backbone: VisionMamba,
        num_classes: int,
        channels: int = 512,
        auxiliary_channels: int = 256,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        backbone.classifier = cast(Any, nn.Identity())
        for i, dim in enumerate(backbone.dims):
            backbone.add_module(f"outnorm{i}", Norm2d(dim))
        self.decode_head = _UPerHead(backbone.dims, channels, num_classes)
        self.auxiliary_head: nn.Module | None = None
        if auxiliary_channels:
            self.auxiliary_head = _PlainHead(backbone.dims[-2:][0], auxiliary_channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(batch, K, height, width)`` of ``(batch, 3, height, width)``."""
        return _resized(self.decode_head(self._stages(image)), image)

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of the head and those of the second one, both of the image's size."""
        stages = self._stages(image)
        logits = _resized(self.decode_head(stages), image)
        if self.auxiliary_head is None:
            return logits, None
        return logits, _resized(self.auxiliary_head(stages[-2:][0]), image)

    def _stages(self, image: Tensor) -> list[Tensor]:
        maps = self.backbone.forward_stages(image)
        return [getattr(self.backbone, f"outnorm{i}")(m) for i, m in enumerate(maps)]


class _ConvNormAct(nn.Module):
    def __init__(self, channels: int, out: int, size: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, size, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _UPerHead(nn.Module):
    def __init__(self, dims: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _ConvNormAct(dims[-1], channels))
            for side in _POOLS
        )
        self.bottleneck = _ConvNormAct(dims[-1] + len(_POOLS) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(_ConvNormAct(dim, channels) for dim in dims[:-1])
        self.fpn_convs = nn.ModuleList(_ConvNormAct(channels, channels, 3) for _ in dims[:-1])
        self.fpn_bottleneck = _ConvNormAct(len(dims) * channels, channels, 3)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Return logits at the size of the first stage."""
        deepest = stages[-1]
        pooled = [_resized(pool(deepest), deepest) for pool in self.psp_modules]
        laterals = [conv(m) for conv, m in zip(self.lateral_convs, stages[:-1], strict=True)]
        laterals.append(self.bottleneck(torch.cat([deepest, *pooled], dim=1)))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + _resized(laterals[i], laterals[i - 1])
        outs = [conv(m) for conv, m in zip(self.fpn_convs, laterals[:-1], strict=True)]
        outs.append(laterals[-1])
        joined = torch.cat([_resized(m, outs[0]) for m in outs], dim=1)
        return self.conv_seg(self.dropout(self.fpn_bottleneck(joined)))


class _PlainHead(nn.Module):
    def __init__(self, dim: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.convs = nn.Sequential(_ConvNormAct(dim, channels, 3))
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, stage: Tensor) -> Tensor:
        return self.conv_seg(self.dropout(self.convs(stage)))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def load_segmenter(path: str | Path, scan: Scan) -> Segmenter:
    """Return the segmenter of a checkpoint with mmsegmentation's names, in evaluation mode.

    Parameters
    ----------
    path
        As of `read_state`.
    scan
        ``"2d"`` for 2DVMamba, ``"1d"`` for VMamba.

    Raises
    ------
    CheckpointError
        When the file cannot be read or is of another network.
    """
    path = Path(path)
    state = read_state(path, scan=scan)
    if "decode_head.conv_seg.weight" not in state:
        raise CheckpointError(
            f"{path.name} holds no UPerNet (decode_head.conv_seg.weight is not there); give the "
            "checkpoint of a segmenter"
        )
    # What training leaves beside the weights: the means and deviations of images
    state = {k: v for k, v in state.items() if not k.startswith("data_preprocessor.")}
    bare = {k.removeprefix("backbone."): v for k, v in state.items()}
    backbone = VisionMamba(scan=scan, **sizes_of(bare, path.name))
    classes, channels = state["decode_head.conv_seg.weight"].shape[:2]
    auxiliary = state.get("auxiliary_head.conv_seg.weight")
    network = Segmenter(backbone, classes, channels, 0 if auxiliary is None else auxiliary.shape[1])
    load_whole(network, state, path.name)
    return network.eval()
