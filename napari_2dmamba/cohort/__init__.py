"""Many slides: found, shared out to workers, done once, and accounted for one by one."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.cohort.run import extract_cohort, run_cohort
    from napari_2dmamba.cohort.settings import CohortSettings
    from napari_2dmamba.cohort.slides import CohortSlide, find_slides
    from napari_2dmamba.cohort.status import CohortSummary, SlideStatus, read_cohort

_PUBLIC = {
    "CohortSettings": "settings",
    "CohortSlide": "slides",
    "CohortSummary": "status",
    "SlideStatus": "status",
    "extract_cohort": "many",
    "find_slides": "slides",
    "read_cohort": "status",
    "run_cohort": "many",
}

__all__ = [
    "CohortSettings",
    "CohortSlide",
    "CohortSummary",
    "SlideStatus",
    "extract_cohort",
    "find_slides",
    "read_cohort",
    "run_cohort",
]


def __getattr__(name: str) -> Any:
    # Names on first use: the settings must not cost torch
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
