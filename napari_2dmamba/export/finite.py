"""The door of every export: a number that is not one never leaves as a result."""

import numpy as np

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
