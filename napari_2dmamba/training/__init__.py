"""Fitting aggregators to labelled bags."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.training.bags import LabelledBag
    from napari_2dmamba.training.fitting import FitResult, FitSettings, fit
    from napari_2dmamba.training.metrics import Scores, score

__all__ = ["FitResult", "FitSettings", "LabelledBag", "Scores", "fit", "score"]

_HOME = {
    "FitResult": "fitting",
    "FitSettings": "fitting",
    "LabelledBag": "bags",
    "Scores": "metrics",
    "fit": "fitting",
    "score": "metrics",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
