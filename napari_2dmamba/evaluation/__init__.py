"""How good predictions are: scores, intervals, comparisons and the report."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.evaluation.comparison import Difference, compare_models
    from napari_2dmamba.evaluation.predictions import (
        Predictions,
        predict,
        read_predictions,
        write_predictions,
    )
    from napari_2dmamba.evaluation.report import write_report
    from napari_2dmamba.evaluation.scoring import Evaluation, evaluate, score_predictions
    from napari_2dmamba.evaluation.settings import EvaluationSettings

_HOME = {
    "Difference": "comparison",
    "Evaluation": "scoring",
    "EvaluationSettings": "settings",
    "Predictions": "predictions",
    "compare_models": "comparison",
    "evaluate": "scoring",
    "predict": "predictions",
    "read_predictions": "predictions",
    "score_predictions": "scoring",
    "write_predictions": "predictions",
    "write_report": "report",
}

__all__ = [
    "Difference",
    "Evaluation",
    "EvaluationSettings",
    "Predictions",
    "compare_models",
    "evaluate",
    "predict",
    "read_predictions",
    "score_predictions",
    "write_predictions",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Names on first use: settings must not cost torch
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
