"""CLAM: clustering-constrained attention MIL (Lu et al., Nature BME 2021, arXiv 2004.09666).

The single-branch model has one attention for all classes, the multi-branch model one each.
While training, an instance classifier per class learns to tell the patches of highest and
lowest attention apart, which `CLAM.auxiliary_loss` gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.models.architecture import (
    Architecture,
    ArchitectureConfig,
    ModelOutput,
    keep,
    score_of_class,
    xavier_init,
)


@dataclass(frozen=True)
class CLAMConfig(ArchitectureConfig):
    """Shape of a CLAM.

    Attributes
    ----------
    hidden, attention_hidden
        Widths; published as small (512, 256) and big (512, 384).
    gate
        Gated attention.
    branches
        1, or one attention per output.
    dropout_layer
        Whether the weights were made with a dropout layer in the network, which counts in
        the names of the weights.
    k_sample
        Patches of highest and of lowest attention in the instance loss.
    subtyping
        Whether classes exclude each other, so that a patch of high attention for another
        class counts as negative.
    """

    hidden: int = 512
    attention_hidden: int = 256
    gate: bool = True
    branches: int = 1
    dropout_layer: bool = True
    k_sample: int = 8
    subtyping: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(hidden=(1, 65536), attention_hidden=(1, 65536), k_sample=(1, 10**6))
        if self.branches not in (1, self.n_outputs):
            raise ValueError(f"branches is {self.branches}, but must be 1 or {self.n_outputs}")


class GatedAttention(nn.Module):
    """tanh times sigmoid, then one score per branch."""

    def __init__(self, config: CLAMConfig) -> None:
        super().__init__()

        def half(squash: nn.Module) -> nn.Sequential:
            layers = [nn.Linear(config.hidden, config.attention_hidden), squash]
            return nn.Sequential(*layers, *_dropout(config))

        self.attention_a = half(nn.Tanh())
        self.attention_b = half(nn.Sigmoid())
        self.attention_c = nn.Linear(config.attention_hidden, config.branches)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, hidden) -> (N, branches)``."""
        return self.attention_c(self.attention_a(x) * self.attention_b(x))


class PlainAttention(nn.Module):
    """tanh, then one score per branch."""

    def __init__(self, config: CLAMConfig) -> None:
        super().__init__()
        self.module = nn.Sequential(
            nn.Linear(config.hidden, config.attention_hidden),
            nn.Tanh(),
            *_dropout(config),
            nn.Linear(config.attention_hidden, config.branches),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, hidden) -> (N, branches)``."""
        return self.module(x)


def _dropout(config: CLAMConfig) -> list[nn.Module]:
    return [nn.Dropout(config.dropout)] if config.dropout_layer else []


class CLAM(Architecture):
    """CLAM-SB and CLAM-MB."""

    name: ClassVar[str] = "clam"
    title: ClassVar[str] = "CLAM"
    paper: ClassVar[str] = "Lu et al., Nature Biomedical Engineering 2021, arXiv 2004.09666"
    config_class: ClassVar[type[ArchitectureConfig]] = CLAMConfig
    score_meaning: ClassVar[str] = (
        "softmax attention of the patch, with several branches that of the predicted class; "
        "over all patches it sums to 1"
    )

    config: CLAMConfig

    @property
    def variant(self) -> str:
        """CLAM-SB or CLAM-MB."""
        return f"{self.title}-{'SB' if self.config.branches == 1 else 'MB'}"

    def __init__(self, config: CLAMConfig) -> None:
        super().__init__()
        self.config = config
        attention = GatedAttention(config) if config.gate else PlainAttention(config)
        self.attention_net = nn.Sequential(
            nn.Linear(config.feature_size, config.hidden),
            nn.ReLU(),
            *_dropout(config),
            attention,
        )
        self.classifiers: nn.Linear | nn.ModuleList
        if config.branches == 1:
            self.classifiers = nn.Linear(config.hidden, config.n_outputs)
        else:
            self.classifiers = nn.ModuleList(
                nn.Linear(config.hidden, 1) for _ in range(config.n_outputs)
            )
        self.instance_classifiers = nn.ModuleList(
            nn.Linear(config.hidden, 2) for _ in range(config.n_outputs)
        )
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

        Stages: ``att_raw (branches, N)`` before softmax, ``hidden (N, hidden)``,
        ``bag (branches, hidden)``.
        """
        hidden = self.attention_net[:-1](features)
        att_raw = self.attention_net[-1](hidden)
        weights = torch.softmax(att_raw, dim=0)
        bag = weights.t() @ hidden
        if isinstance(self.classifiers, nn.Linear):
            logits = self.classifiers(bag[0])
            scores = weights[:, 0]
        else:
            logits = torch.cat(
                [head(part) for head, part in zip(self.classifiers, bag, strict=True)]
            )
            scores = score_of_class(weights, logits)
        keep(stages, att_raw=att_raw.t(), hidden=hidden, bag=bag)
        return ModelOutput(logits, scores)

    def auxiliary_loss(self, stages: dict[str, Tensor], label: Tensor) -> Tensor | None:
        """Return the instance loss; see `instance_loss`."""
        return self.instance_loss(stages, int(label))[0]

    def instance_loss(self, stages: dict[str, Tensor], label: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropy of the instance classifiers on patches of extreme attention.

        For the slide's class, the k patches of highest attention count as positive and the k
        of lowest as negative; for every other class, with subtyping, the k of highest count
        as negative. A bag of fewer than k patches gives all it has.

        Returns
        -------
        Loss (scalar, mean over classes with subtyping), predictions and targets.
        """
        att_raw, hidden = stages["att_raw"], stages["hidden"]
        k = min(self.config.k_sample, hidden.shape[0])
        losses, predictions, targets = [], [], []
        if len(self.instance_classifiers) == 1:
            label -= 1  # the one there is is that of the positive class
        for outcome, classifier in enumerate(self.instance_classifiers):
            scores = att_raw[outcome if self.config.branches > 1 else 0]
            highest = scores.topk(k).indices
            if outcome == label:
                chosen = torch.cat([highest, scores.neg().topk(k).indices])
                target = torch.cat([highest.new_ones(k), highest.new_zeros(k)])
            elif self.config.subtyping:
                chosen, target = highest, highest.new_zeros(k)
            else:
                continue
            logits = classifier(hidden[chosen])
            losses.append(functional.cross_entropy(logits, target))
            predictions.append(logits.argmax(1))
            targets.append(target)
        if not losses:
            none = torch.empty(0, dtype=torch.int64, device=hidden.device)
            return hidden.sum() * 0, none, none
        total = torch.stack(losses).sum()
        if self.config.subtyping:
            total = total / len(self.instance_classifiers)
        return total, torch.cat(predictions), torch.cat(targets)

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`."""
        return patches * (3 * self.config.hidden + 4 * self.config.attention_hidden)

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        return "attention_net.0.weight" in shapes and "instance_classifiers.0.weight" in shapes

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> CLAMConfig:
        """See `Architecture.config_of`."""
        hidden, feature_size = shapes["attention_net.0.weight"]
        attention = max(
            (int(key.split(".")[1]) for key in shapes if key.startswith("attention_net.")),
        )
        prefix = f"attention_net.{attention}"
        gate = f"{prefix}.attention_a.0.weight" in shapes
        if gate:
            last = shapes[f"{prefix}.attention_c.weight"]
        else:
            last = shapes[f"{prefix}.module.{3 if attention == 3 else 2}.weight"]
        return CLAMConfig(
            feature_size,
            sum(1 for key in shapes if key.startswith("instance_classifiers.")) // 2,
            hidden=hidden,
            attention_hidden=last[1],
            gate=gate,
            branches=last[0],
            dropout_layer=attention == 3,
        )
