"""Several models, or several maps, on the same patches of one slide, side by side."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.compare.comparison import Comparison, Entry, Reading
    from napari_2dmamba.compare.contender import Contender, contenders_of
    from napari_2dmamba.compare.ensemble import Ensemble
    from napari_2dmamba.compare.figure import FigureSettings, write_figure
    from napari_2dmamba.compare.folder import make_comparison_record, write_comparison
    from napari_2dmamba.compare.saved_runs import RunPair, compare_runs
    from napari_2dmamba.compare.side_by_side import compare

_PUBLIC = {
    "Comparison": "comparison",
    "Contender": "contender",
    "Ensemble": "ensemble",
    "Entry": "comparison",
    "FigureSettings": "figure",
    "Reading": "comparison",
    "RunPair": "saved_runs",
    "compare": "side_by_side",
    "compare_runs": "saved_runs",
    "contenders_of": "contender",
    "make_comparison_record": "folder",
    "write_comparison": "folder",
    "write_figure": "figure",
}

__all__ = [
    "Comparison",
    "Contender",
    "Ensemble",
    "Entry",
    "FigureSettings",
    "Reading",
    "RunPair",
    "compare",
    "compare_runs",
    "contenders_of",
    "make_comparison_record",
    "write_comparison",
    "write_figure",
]


def __getattr__(name: str) -> Any:
    # Names on first use: a command's help must not cost torch
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
