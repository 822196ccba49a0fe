"""TransMIL: transformer MIL with Nyström attention (Shao et al., NeurIPS 2021, 2106.00908)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_2dmamba.models.architecture import (
    Architecture,
    ArchitectureConfig,
    ModelOutput,
    activation,
    keep,
    xavier_init,
)
from napari_2dmamba.models.nystrom import NystromAttention


@dataclass(frozen=True)
class TransMILConfig(ArchitectureConfig):
    """Shape of a TransMIL.

    Attributes
    ----------
    dim
        Width of the tokens.
    heads
        Attention heads.
    act
        ``"relu"`` or ``"gelu"`` after the projection.
    """

    dim: int = 512
    heads: int = 8
    act: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(dim=(2, 65536), heads=(1, 1024))

    @property
    def landmarks(self) -> int:
        """Landmark tokens of the attention."""
        return self.dim // 2


class AttentionLayer(nn.Module):
    """``x + attention(norm(x))``."""

    def __init__(self, config: TransMILConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.attn = NystromAttention(
            config.dim, config.dim // config.heads, config.heads, config.landmarks
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(L, dim) -> (L, dim)``."""
        return x + self.attn(self.norm(x))

    def class_token_attention(self, x: Tensor) -> Tensor:
        """Return ``(L,)``: attention of the first token to each, mean over heads."""
        zeros = self.attn.zeros_in_front(len(x))
        first = torch.tensor([zeros], device=x.device)
        return self.attn.attention_of(self.norm(x), first)[:, 0, zeros:].mean(0)


class PositionLayer(nn.Module):
    """Depthwise convolutions on the tokens laid out as a square (PPEG)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.proj1 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.proj2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, side: int) -> Tensor:
        """``(1 + side**2, dim)`` to the same shape; the class token passes."""
        square = x[1:].t().reshape(1, -1, side, side)
        square = square + self.proj(square) + self.proj1(square) + self.proj2(square)
        return torch.cat([x[:1], square.flatten(2)[0].t()])


class TransMIL(Architecture):
    """Two Nyström layers around a position layer, and a class token.

    Patches keep the order of the bag; the first ones are repeated at the end until their
    number is a square. The score of a patch that is there twice is the mean of both: the sum
    would show the repetition and not the tissue.
    """

    name: ClassVar[str] = "transmil"
    title: ClassVar[str] = "TransMIL"
    paper: ClassVar[str] = "Shao et al., NeurIPS 2021, arXiv 2106.00908"
    config_class: ClassVar[type[ArchitectureConfig]] = TransMILConfig
    score_meaning: ClassVar[str] = (
        "attention of the class token to the patch in the last layer, mean over heads; an "
        "approximation in which small negative values occur; of a patch that is repeated to make "
        "the number a square, the mean"
    )

    config: TransMILConfig

    def __init__(self, config: TransMILConfig) -> None:
        super().__init__()
        self.config = config
        self._fc1 = nn.Sequential(
            nn.Linear(config.feature_size, config.dim),
            activation(config.act),
            nn.Dropout(config.dropout),
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.dim) * 1e-6)
        self.layer1 = AttentionLayer(config)
        self.pos_layer = PositionLayer(config.dim)
        self.layer2 = AttentionLayer(config)
        self.norm = nn.LayerNorm(config.dim)
        self.classifier = nn.Linear(config.dim, config.n_outputs)
        xavier_init(self)

    def forward(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        stages: dict[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Run one bag.

        Stages, with L = 1 + the next square: ``out_layer1``, ``out_pos_layer`` and
        ``out_layer2``, each ``(1, L, dim)``.
        """
        count = len(features)
        side = math.isqrt(count - 1) + 1
        repeated = side * side - count
        hidden = self._fc1(features)
        first = torch.cat([self.cls_token[0], hidden, hidden[:repeated]])
        after1 = self.layer1(first)
        placed = self.pos_layer(after1, side)
        after2 = self.layer2(placed)
        logits = self.classifier(self.norm(after2[:1])[0])
        paid = self.layer2.class_token_attention(placed)[1:]
        twice = (paid[:repeated] + paid[count:]) / 2
        scores = torch.cat([twice, paid[repeated:count]])
        keep(stages, out_layer1=after1[None], out_pos_layer=placed[None], out_layer2=after2[None])
        return ModelOutput(logits, scores)

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`; all parts grow with the number of patches alone."""
        c = self.config
        tokens = (math.isqrt(patches) + 1) ** 2 + c.landmarks
        return tokens * (19 * c.dim + 2 * c.landmarks) + 8 * c.heads * c.landmarks**2

    @classmethod
    def adapt(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Architecture.adapt`; the paper's repository calls the classifier ``_fc2``."""
        return {
            "classifier." + key.removeprefix("_fc2.") if key.startswith("_fc2.") else key: value
            for key, value in weights.items()
        }

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        return "cls_token" in shapes and "layer1.attn.to_qkv.weight" in shapes

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> TransMILConfig:
        """See `Architecture.config_of`."""
        dim, feature_size = shapes["_fc1.0.weight"]
        return TransMILConfig(
            feature_size,
            shapes["classifier.weight"][0],
            dim=dim,
            heads=shapes["layer1.attn.res_conv.weight"][0],
        )
