"""How well a model tells the validation bags apart: to look at, not to choose by."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from napari_2dmamba.evaluation.classification import auroc
from napari_2dmamba.evaluation.survival import concordance
from napari_2dmamba.models.answer import answer_of
from napari_2dmamba.tasks.bags import LabelledBag


def score_name(kind: str) -> str:
    """Return what `validation_score` computes for a kind of task, in words."""
    return "Concordance index" if kind == "survival" else "AUROC"


def validation_score(
    examples: Sequence[LabelledBag], logits: Sequence[Tensor], task: str
) -> float | None:
    """Return the AUROC, or the concordance index for survival; None where it has no meaning.

    Parameters
    ----------
    examples
        What is known; their bags are not looked at.
    logits
        ``(K,)`` each.
    task
        As in the header of the model.
    """
    said = [answer_of(one, task) for one in logits]
    if task == "survival":
        times = [e.label if e.time is None else e.time for e in examples]
        risks = np.array([answer.risk for answer in said], np.float64)
        return concordance(risks, times, [not e.censored for e in examples]).index
    probabilities = np.array([answer.probabilities for answer in said], np.float64)
    return auroc([e.label for e in examples], probabilities)
