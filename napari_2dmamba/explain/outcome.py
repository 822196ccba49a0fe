"""What a model says, and the one number of it that an explanation is about."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.errors import SettingsError
from napari_2dmamba.models.architecture import ModelOutput
from napari_2dmamba.models.header import CheckpointHeader

Target = int | str | None
"""A class or time bin by number or name, ``"risk"`` for survival, or None.

None is the class with the largest logit, and the risk of a survival model.
"""


@dataclass(frozen=True)
class Outcome:
    """The answer of a model.

    Attributes
    ----------
    task, class_names
        As in the checkpoint's header.
    logits
        ``(K,)``.
    probabilities
        ``(K,)``; None for survival.
    hazards, survival, risk
        ``(K,)``, ``(K,)`` and a number; None for classification.
    attention
        ``(M,)`` score of every patch that was there.
    background_mass
        Share of the attention on cells without tissue, or None.
    """

    task: Literal["classification", "survival"]
    class_names: tuple[str, ...]
    logits: NDArray[np.float64]
    attention: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None = None
    hazards: NDArray[np.float64] | None = None
    survival: NDArray[np.float64] | None = None
    risk: float | None = None
    background_mass: float | None = None

    @property
    def top_class(self) -> int:
        """Number of the most probable class, or of the bin of highest hazard."""
        return int(np.argmax(self.logits))


def outcome_of(output: ModelOutput, header: CheckpointHeader) -> Outcome:
    """Read a network's output."""
    logits = output.logits.detach().double().cpu()
    attention = output.scores.detach().double().cpu().numpy()
    mass = None if output.background_mass is None else float(output.background_mass)
    if header.task != "survival":
        return Outcome(
            "classification", header.class_names, logits.numpy(), attention,
            probabilities=torch.softmax(logits, 0).numpy(), background_mass=mass,
        )  # fmt: skip
    hazards = torch.sigmoid(logits)
    survival = torch.cumprod(1 - hazards, 0)
    return Outcome(
        "survival", header.class_names, logits.numpy(), attention, hazards=hazards.numpy(),
        survival=survival.numpy(), risk=-float(survival.sum()), background_mass=mass,
    )  # fmt: skip


def resolve(logits: Tensor, header: CheckpointHeader, target: Target) -> int | Literal["risk"]:
    """Return the number of a class or bin, or ``"risk"``.

    Raises
    ------
    SettingsError
        When the model has no such class, bin or risk.
    """
    if target is None:
        return "risk" if header.task == "survival" else int(logits.detach().argmax())
    if isinstance(target, str):
        if target in header.class_names:
            return header.class_names.index(target)
        if target == "risk" and header.task == "survival":
            return "risk"
    elif 0 <= target < len(header.class_names):
        return int(target)
    risk = " and risk" if header.task == "survival" else ""
    raise SettingsError(
        f"the model has no output {target!r}; it has {', '.join(header.class_names)}{risk}"
    )


def target_value(logits: Tensor, header: CheckpointHeader, target: Target) -> Tensor:
    """Return the scalar that is explained: the logit of a class or bin, or the risk."""
    chosen = resolve(logits, header, target)
    if chosen == "risk":
        return -torch.cumprod(1 - torch.sigmoid(logits), 0).sum()
    return logits[chosen]


def words_of(header: CheckpointHeader, target: Target) -> str:
    """Name a target for a sentence."""
    if target is None:
        return "the risk" if header.task == "survival" else "the logit of the predicted class"
    if target == "risk" and header.task == "survival":
        return "the risk"
    name = header.class_names[target] if isinstance(target, int) else target
    kind = "hazard logit of" if header.task == "survival" else "logit of"
    return f"the {kind} {name}"


def strength(outcome: Outcome, target: int | Literal["risk"]) -> float:
    """Return a target as the number a user reads: probability, hazard, or risk."""
    if target == "risk":
        assert outcome.risk is not None
        return outcome.risk
    values = outcome.hazards if outcome.probabilities is None else outcome.probabilities
    assert values is not None
    return float(values[target])
