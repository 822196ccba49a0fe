"""ABMIL: attention-based MIL (Ilse et al., ICML 2018, arXiv 1802.04712)."""

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


@dataclass(frozen=True)
class ABMILConfig(ArchitectureConfig):
    """Widths of an ABMIL.

    Attributes
    ----------
    hidden
        Width of the projected features.
    attention_hidden
        Width of the attention's hidden layer.
    act
        ``"relu"`` or ``"gelu"`` after the projection.
    """

    hidden: int = 512
    attention_hidden: int = 128
    act: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(hidden=(1, 65536), attention_hidden=(1, 65536))


class ABMIL(Architecture):
    """Project, weigh by attention, add up, classify."""

    name: ClassVar[str] = "abmil"
    title: ClassVar[str] = "ABMIL"
    paper: ClassVar[str] = "Ilse et al., ICML 2018, arXiv 1802.04712"
    config_class: ClassVar[type[ArchitectureConfig]] = ABMILConfig
    score_meaning: ClassVar[str] = "softmax attention of the patch; over all patches it sums to 1"

    config: ABMILConfig

    def __init__(self, config: ABMILConfig) -> None:
        super().__init__()
        self.config = config
        self.feature = nn.Sequential(
            nn.Linear(config.feature_size, config.hidden),
            activation(config.act),
            nn.Dropout(config.dropout),
        )
        self.attention = nn.Sequential(
            nn.Linear(config.hidden, config.attention_hidden),
            nn.Tanh(),
            nn.Linear(config.attention_hidden, 1),
        )
        self.classifier = nn.Sequential(nn.Linear(config.hidden, config.n_outputs))
        xavier_init(self)

    def forward(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        stages: dict[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Run one bag; stages: ``att_raw (1, N)`` before softmax, ``bag (1, hidden)``."""
        hidden = self.feature(features)
        att_raw = self.attention(hidden)[:, 0]
        weights = torch.softmax(att_raw, dim=0)
        bag = weights @ hidden
        keep(stages, att_raw=att_raw[None], bag=bag[None])
        return ModelOutput(self.classifier(bag), weights)

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`."""
        return patches * (3 * self.config.hidden + 3 * self.config.attention_hidden)

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        return "feature.0.weight" in shapes and "attention.2.weight" in shapes

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ABMILConfig:
        """See `Architecture.config_of`."""
        hidden, feature_size = shapes["feature.0.weight"]
        return ABMILConfig(
            feature_size,
            shapes["classifier.0.weight"][0],
            hidden=hidden,
            attention_hidden=shapes["attention.0.weight"][0],
        )
