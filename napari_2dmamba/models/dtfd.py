"""DTFD-MIL: double-tier feature distillation (Zhang et al., CVPR 2022, arXiv 2203.12081).

The bag is dealt into pseudo-bags. Attention pools each into one distilled feature, and a
second attention pools those. The paper shuffles patches before dealing; here they are dealt
in turn, so that a slide always gives the same result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.models.answer import class_logits
from napari_2dmamba.models.architecture import (
    Architecture,
    ArchitectureConfig,
    ModelOutput,
    keep,
    xavier_init,
)


@dataclass(frozen=True)
class DTFDConfig(ArchitectureConfig):
    """Shape of a DTFD-MIL.

    Attributes
    ----------
    hidden
        Width after the reduction.
    attention_hidden
        Width inside the gated attentions.
    residual_blocks
        Residual blocks in the reduction.
    pseudo_bags
        Pseudo-bags per slide; a smaller bag makes fewer.
    """

    hidden: int = 512
    attention_hidden: int = 128
    residual_blocks: int = 0
    pseudo_bags: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(
            hidden=(1, 65536),
            attention_hidden=(1, 65536),
            residual_blocks=(0, 256),
            pseudo_bags=(1, 4096),
        )


class ResidualBlock(nn.Module):
    """Two bias-free layers beside a shortcut."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(size, size, bias=False),
            nn.ReLU(),
            nn.Linear(size, size, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, size) -> (N, size)``."""
        return x + self.block(x)


class Reduction(nn.Module):
    """A bias-free projection and residual blocks."""

    def __init__(self, config: DTFDConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.feature_size, config.hidden, bias=False)
        self.resBlocks = nn.Sequential(
            *(ResidualBlock(config.hidden) for _ in range(config.residual_blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, D) -> (N, hidden)``."""
        return self.resBlocks(torch.relu(self.fc1(x)))


class GatedAttention(nn.Module):
    """tanh times sigmoid, then one score per row."""

    def __init__(self, config: DTFDConfig) -> None:
        super().__init__()
        self.attention_V = nn.Sequential(
            nn.Linear(config.hidden, config.attention_hidden), nn.Tanh()
        )
        self.attention_U = nn.Sequential(
            nn.Linear(config.hidden, config.attention_hidden), nn.Sigmoid()
        )
        self.attention_weights = nn.Linear(config.attention_hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, hidden) -> (N,)``, before softmax."""
        return self.attention_weights(self.attention_V(x) * self.attention_U(x))[:, 0]


class Classifier(nn.Module):
    """One linear layer after dropout."""

    def __init__(self, config: DTFDConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(config.hidden, config.n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., hidden) -> (..., K)``."""
        return self.fc(self.dropout(x))


class AttentionClassifier(nn.Module):
    """The second tier: attention over rows, then a classifier."""

    def __init__(self, config: DTFDConfig) -> None:
        super().__init__()
        self.attention = GatedAttention(config)
        self.classifier = Classifier(config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(M, hidden)`` to logits ``(K,)`` and attention ``(M,)``."""
        weights = torch.softmax(self.attention(x), dim=0)
        return self.classifier(weights @ x), weights


class DTFD(Architecture):
    """DTFD-MIL with attention-based feature selection (AFS)."""

    name: ClassVar[str] = "dtfd"
    title: ClassVar[str] = "DTFD-MIL"
    paper: ClassVar[str] = "Zhang et al., CVPR 2022, arXiv 2203.12081"
    config_class: ClassVar[type[ArchitectureConfig]] = DTFDConfig
    score_meaning: ClassVar[str] = (
        "attention of the patch within its pseudo-bag times that of the pseudo-bag; over all "
        "patches it sums to 1"
    )

    config: DTFDConfig

    def __init__(self, config: DTFDConfig) -> None:
        super().__init__()
        self.config = config
        self.dimReduction = Reduction(config)
        self.attention = GatedAttention(config)
        self.classifier = Classifier(config)
        self.attCls = AttentionClassifier(config)
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

        Stages: ``mid (N, hidden)``; ``att_raw (1, N)`` before softmax; ``tier1_logits (M, K)``
        and ``distilled (M, hidden)``, a row per pseudo-bag; ``att_tier2 (M,)``.
        """
        mid = self.dimReduction(features)
        att_raw = self.attention(mid)
        count = min(self.config.pseudo_bags, len(features))
        within = torch.empty_like(att_raw)
        distilled = []
        for first in range(count):
            members = slice(first, None, count)
            weights = torch.softmax(att_raw[members], dim=0)
            within[members] = weights
            distilled.append(weights @ mid[members])
        pooled = torch.stack(distilled)
        logits, between = self.attCls(pooled)
        of_patch = between[torch.arange(len(features), device=features.device) % count]
        keep(
            stages,
            mid=mid,
            att_raw=att_raw[None],
            tier1_logits=self.classifier(pooled),
            distilled=pooled,
            att_tier2=between,
        )
        return ModelOutput(logits, within * of_patch)

    def auxiliary_loss(self, stages: dict[str, Tensor], label: Tensor) -> Tensor | None:
        """Return the mean cross entropy of the pseudo-bags, each labelled as the slide."""
        logits = class_logits(stages["tier1_logits"])
        return functional.cross_entropy(logits, label.expand(len(logits)))

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`."""
        return patches * (4 * self.config.hidden + 4 * self.config.attention_hidden)

    @classmethod
    def adapt(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Architecture.adapt`.

        The paper's repository names two parts differently; ``attention2`` is a third
        attention that the published comparison carries along.
        """
        names = {"dim_reduction": "dimReduction", "att_classifier": "attCls"}
        adapted = {}
        for key, value in weights.items():
            part, dot, rest = key.partition(".")
            if part != "attention2":
                adapted[names.get(part, part) + dot + rest] = value
        return adapted

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        return "dimReduction.fc1.weight" in shapes and "attCls.classifier.fc.weight" in shapes

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> DTFDConfig:
        """See `Architecture.config_of`; pseudo-bags are not in the weights."""
        hidden, feature_size = shapes["dimReduction.fc1.weight"]
        return DTFDConfig(
            feature_size,
            shapes["attCls.classifier.fc.weight"][0],
            hidden=hidden,
            attention_hidden=shapes["attention.attention_V.0.weight"][0],
            residual_blocks=sum(key.endswith("block.0.weight") for key in shapes),
        )
