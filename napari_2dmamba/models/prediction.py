"""What an aggregator says about a slide."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

UNUSED = "unused "
"""How the names of outputs begin that no time bin was trained on; they come last."""


@dataclass(frozen=True)
class SlidePrediction:
    """Prediction of one model for one slide, with the score of every patch.

    Attributes
    ----------
    task
        ``"classification"`` or ``"survival"``.
    class_names
        One name per logit: classes, or time bins.
    logits
        ``(K,)`` float64; ``(0, z)`` of a network of one logit z, see `answer`.
    probabilities
        ``(K,)`` softmax of the logits, see `answer`; None for survival.
    hazards, survival
        ``(K,)`` discrete hazards sigmoid(logits) and ``cumprod(1 - hazards)``; None for
        classification and Cox models, see `answer`.
    risk
        ``-sum(survival)``, or the log relative hazard of a Cox model; None for classification.
        Higher is an earlier event.
    attention
        ``(N,)`` float32, one score per patch in the order of the bag.
    attention_meaning
        One sentence: what the score is.
    background_mass
        Share of the attention that fell on cells without tissue, 0 to 1; None where the model
        has no such cells.
    canvas
        ``(rows, cols)`` the model saw.
    cells
        ``(N, 2)`` int64 cell ``(row, col)`` of each patch on that canvas.
    device, backend
        What ran it, and which kernel.
    extra
        Model-specific numbers for the record.
    """

    task: Literal["classification", "survival"]
    class_names: tuple[str, ...]
    logits: NDArray[np.float64]
    attention: NDArray[np.float32]
    attention_meaning: str
    canvas: tuple[int, int]
    cells: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None = None
    hazards: NDArray[np.float64] | None = None
    survival: NDArray[np.float64] | None = None
    risk: float | None = None
    background_mass: float | None = None
    device: str = "cpu"
    backend: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def survival_by_bin(self) -> dict[str, float]:
        """Share that survives each time bin that was trained on, by its name; empty without.

        Published models have more outputs than bins (`UNUSED`): those mean nothing.
        """
        names = [name for name in self.class_names if not name.startswith(UNUSED)]
        values = () if self.survival is None else self.survival.tolist()
        return dict(zip(names, values, strict=False))

    @property
    def top_class(self) -> int:
        """Index of the most probable class, or of the bin of highest hazard."""
        return int(np.argmax(self.logits))


def is_cox(task: str, outputs: int) -> bool:
    """Return whether a network states a relative hazard, and no hazards of time bins."""
    return task == "survival" and outputs == 1
