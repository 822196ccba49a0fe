"""Aggregators: from a feature bag to a prediction with a score per patch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.models.aggregator import Aggregator
    from napari_2dmamba.models.checkpoint import load_checkpoint, save_checkpoint
    from napari_2dmamba.models.header import CheckpointHeader, read_header
    from napari_2dmamba.models.prediction import SlidePrediction
    from napari_2dmamba.models.published import MissingSettingsError, training_canvas
    from napari_2dmamba.models.settings import ModelSettings, device_and_reason

ENTRY_POINTS = "napari_2dmamba.aggregators"
"""Entry point group under which other packages bring architectures."""

__all__ = [
    "ENTRY_POINTS",
    "Aggregator",
    "CheckpointHeader",
    "MissingSettingsError",
    "ModelSettings",
    "SlidePrediction",
    "device_and_reason",
    "load_checkpoint",
    "read_header",
    "save_checkpoint",
    "training_canvas",
]

_HOME = {
    "Aggregator": "aggregator",
    "CheckpointHeader": "header",
    "MissingSettingsError": "published",
    "ModelSettings": "settings",
    "SlidePrediction": "prediction",
    "device_and_reason": "settings",
    "load_checkpoint": "checkpoint",
    "read_header": "header",
    "save_checkpoint": "checkpoint",
    "training_canvas": "published",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that settings and headers are read without torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
