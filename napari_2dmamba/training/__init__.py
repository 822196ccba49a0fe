"""Training aggregators: one bag a step, resumable, from a table to documented checkpoints."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.training.fitting import Epoch, FitResult, Step, fit
    from napari_2dmamba.training.history import read_history
    from napari_2dmamba.training.model import new_aggregator
    from napari_2dmamba.training.presets import PRESETS, Preset, preset
    from napari_2dmamba.training.run import TrainingRun, read_training, train
    from napari_2dmamba.training.settings import FitSettings

_HOME = {
    "Epoch": "fitting",
    "FitResult": "fitting",
    "FitSettings": "settings",
    "PRESETS": "presets",
    "Preset": "presets",
    "Step": "fitting",
    "TrainingRun": "run",
    "fit": "fitting",
    "new_aggregator": "model",
    "preset": "presets",
    "read_history": "history",
    "read_training": "run",
    "train": "run",
}

__all__ = [
    "PRESETS",
    "Epoch",
    "FitResult",
    "FitSettings",
    "Preset",
    "Step",
    "TrainingRun",
    "fit",
    "new_aggregator",
    "preset",
    "read_history",
    "read_training",
    "train",
]


def __getattr__(name: str) -> Any:
    # Names on first use: settings must not cost torch
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
