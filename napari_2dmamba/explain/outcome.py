"""What a model says, and the one number of it that an explanation is about."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.errors import TargetError
from napari_2dmamba.models.answer import answer_of, class_logits
from napari_2dmamba.models.architecture import ModelOutput
from napari_2dmamba.models.finite import require_finite
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.prediction import is_cox

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
        ``(K,)``, ``(K,)`` and a number; None for classification. Of a Cox model only the risk.
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
    """Read a network's output.

    Raises
    ------
    NotFiniteError
        When a number of it is infinite or not a number.
    """
    require_finite("logits of the model", output.logits)
    require_finite("scores the model gives the patches", output.scores)
    answer = answer_of(output.logits, header.task)
    attention = output.scores.detach().double().cpu().numpy()
    mass = None if output.background_mass is None else float(output.background_mass)
    return Outcome(
        "survival" if header.task == "survival" else "classification", header.class_names,
        answer.logits, attention, answer.probabilities, answer.hazards, answer.survival,
        answer.risk, mass,
    )  # fmt: skip


def resolve(logits: Tensor, header: CheckpointHeader, target: Target) -> int | Literal["risk"]:
    """Return the number of a class or bin, or ``"risk"``; arguments and errors of `named_target`.

    ``logits``, as the network gives them, decide where no target is named.
    """
    chosen = named_target(header, target)
    if chosen is None:
        return int(class_logits(logits.detach()).argmax())
    return chosen


def named_target(header: CheckpointHeader, target: Target) -> int | Literal["risk"] | None:
    """Return a target that needs no logits: None stands for the class that they predict.

    Parameters
    ----------
    target
        A number may also be written as text, where no class is called so.

    Raises
    ------
    TargetError
        When the model has no such class, bin or risk; says which it has.
    """
    survival = header.task == "survival"
    if target is None:
        return "risk" if survival else None
    if is_cox(header.task, len(header.class_names)) and str(target) in ("0", *header.class_names):
        return "risk"  # which is all that such a model says
    if isinstance(target, str) and target in header.class_names:
        return header.class_names.index(target)
    if target == "risk" and survival:
        return "risk"
    number = int(target) if isinstance(target, str) and target.isdecimal() else target
    if isinstance(number, int | np.integer) and 0 <= number < len(header.class_names):
        return int(number)
    raise TargetError(
        f"the model has no output {str(target)[:80]!r}; it has {', '.join(header.class_names)}"
        f"{' and risk' if survival else ''}"
    )


def target_value(logits: Tensor, header: CheckpointHeader, target: Target) -> Tensor:
    """Return the scalar that is explained: the logit of a class or bin, or the risk.

    Of a network with one logit z it is z for the positive class and -z, the log-odds of the
    negative one, for that.

    Raises
    ------
    NotFiniteError
        When it is infinite or not a number.
    """
    chosen = resolve(logits, header, target)
    if chosen == "risk" and is_cox(header.task, len(logits)):
        value = logits[0]
    elif chosen == "risk":
        value = -torch.cumprod(1 - torch.sigmoid(logits), 0).sum()
    elif header.task == "classification" and len(logits) == 1:
        value = logits[0] if chosen == 1 else -logits[0]
    else:
        value = logits[chosen]
    require_finite(words_of(header, chosen), value)
    return value


def words_of(header: CheckpointHeader, target: Target) -> str:
    """Name a target for a sentence."""
    if target is None:
        return "the risk" if header.task == "survival" else "the logit of the predicted class"
    number = named_target(header, target)
    if number == "risk":
        return "the risk"
    name = header.class_names[number] if isinstance(number, int) else number
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
