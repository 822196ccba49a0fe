"""The door of every export: a number that is not one never leaves as a result."""

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import ExportError
from napari_2dmamba.models.prediction import SlidePrediction

_NUMBERS = (
    "logits", "probabilities", "hazards", "survival", "risk", "attention", "background_mass",
)  # fmt: skip


def refuse_not_finite(prediction: SlidePrediction) -> None:
    """Refuse a prediction that holds infinities or what is not a number.

    Raises
    ------
    ExportError
        Naming the part of the prediction, and how many of its numbers are concerned.
    """
    for name in _NUMBERS:
        value = getattr(prediction, name)
        if value is None:
            continue
        broken = ~np.isfinite(np.asarray(value, dtype=np.float64))
        if broken.any():
            raise ExportError(
                f"the model's answer is no result: {int(broken.sum())} of {broken.size} numbers of "
                f"its {name.replace('_', ' ')} are infinite or not a number; check features and "
                "weights for values that overflow"
            )


def refuse_infinite(values: NDArray[np.floating], what: str, *, nan: bool = False) -> None:
    """Refuse scores that overflowed; with ``nan`` also those that are not a number.

    Raises
    ------
    ExportError
        Naming the scores and how many are concerned.
    """
    broken = ~np.isfinite(values) if nan else np.isinf(values)
    if broken.any():
        raise ExportError(
            f"{what} is no result: {int(broken.sum())} of {broken.size} values are infinite or not "
            "a number; check features and weights for values that overflow"
        )
