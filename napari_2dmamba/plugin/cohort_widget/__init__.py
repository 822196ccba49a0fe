"""The widget *Cohort 2DMamba*: many slides at once, and what became of each."""

from napari_2dmamba.plugin.cohort_widget.widget import CohortWidget

__all__ = ["CohortWidget"]
