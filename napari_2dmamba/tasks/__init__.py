"""What is to be learnt: a table of labelled slides, its split, and its bags."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.tasks.bags import LabelledBag, TableBags
    from napari_2dmamba.tasks.settings import SplitSettings, TableSettings
    from napari_2dmamba.tasks.splits import Fold, Split, make_split, read_split, write_split
    from napari_2dmamba.tasks.table import LabelledSlide, Problem, Table, read_table

_HOME = {
    "Fold": "splits",
    "LabelledBag": "bags",
    "LabelledSlide": "table",
    "Problem": "table",
    "Split": "splits",
    "SplitSettings": "settings",
    "Table": "table",
    "TableBags": "bags",
    "TableSettings": "settings",
    "make_split": "splits",
    "read_split": "splits",
    "read_table": "table",
    "write_split": "splits",
}

__all__ = [
    "Fold",
    "LabelledBag",
    "LabelledSlide",
    "Problem",
    "Split",
    "SplitSettings",
    "Table",
    "TableBags",
    "TableSettings",
    "make_split",
    "read_split",
    "read_table",
    "write_split",
]


def __getattr__(name: str) -> Any:
    # Names on first use: settings must not cost torch
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
