"""The columns of a cohort's table."""

from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, ClassVar

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.pace import in_words, share_of
from napari_2dmamba.plugin.cohort_widget.slide_rows import SlideRows
from napari_2dmamba.plugin.cohort_widget.state_icons import PAUSED, state_icon
from napari_2dmamba.plugin.parts.row_table import RowTable


class Column(IntEnum):
    """The columns from left to right."""

    SLIDE = 0
    LABEL = 1
    STATE = 2
    PROGRESS = 3
    PATCHES = 4
    SPEED = 5
    FINDING = 6
    TIME = 7
    REASON = 8


_NAMES = {states.REUSED: "done before", states.ELSEWHERE: "other run"}
_ORDER = (
    states.FAILED, states.RUNNING, states.ELSEWHERE, states.STOPPED, states.WAITING, states.DONE,
    states.REUSED,
)  # fmt: skip


class CohortTable(RowTable):
    """The slides of a cohort.

    Parameters
    ----------
    slides
        Every slide.
    """

    titles: ClassVar = {
        Column.SLIDE: "Slide",
        Column.LABEL: "Label",
        Column.STATE: "State",
        Column.PROGRESS: "Progress",
        Column.PATCHES: "Patches",
        Column.SPEED: "Patches/s",
        Column.FINDING: "Prediction",
        Column.TIME: "Time",
        Column.REASON: "What happened",
    }
    numbers = (Column.PATCHES, Column.SPEED, Column.TIME)

    def __init__(self, slides: SlideRows) -> None:
        super().__init__()
        self._slides = slides
        self._states: tuple[str, ...] = ()
        slides.reset.connect(self.start_again)
        slides.changed.connect(self.follow)
        self.start_again()

    def set_states(self, wanted: tuple[str, ...]) -> None:
        """Show slides in one of the wanted states; empty: any."""
        self._states = wanted
        self.choose_rows()

    def all_rows(self) -> SlideRows:
        """Return every slide, in the order given."""
        return self._slides

    def is_wanted(self, row: SlideStatus) -> bool:
        """Whether its state is wanted."""
        return not self._states or row.state in self._states

    def searched(self, row: SlideStatus) -> tuple[str, ...]:
        """Return the texts that the filter looks in."""
        label = row.label or ""
        return row.name, label, row.state, row.finding, row.reason, *row.notes.values()

    def picture(self, row: SlideStatus, column: Column) -> Any:
        """Return the sign of a state."""
        return state_icon(self._state_of(row)) if column == Column.STATE else None

    def _state_of(self, row: SlideStatus) -> str:
        """Return a slide's state, or `PAUSED`."""
        return PAUSED if self._slides.is_paused and row.state == states.RUNNING else row.state

    def text(self, row: SlideStatus, column: Column) -> str:
        """Return what a cell says."""
        if column == Column.SLIDE:
            return row.name
        if column == Column.LABEL:
            return row.label or ""
        if column == Column.STATE:
            state = self._state_of(row)
            return _NAMES.get(state, state)
        if column == Column.PROGRESS:
            return _progress(row)
        if column == Column.PATCHES:
            patches = _patches(row)
            return str(patches) if patches else ""
        if column == Column.SPEED:
            return f"{row.patches_per_second:.3g}" if row.patches_per_second else ""
        if column == Column.FINDING:
            return row.finding
        if column == Column.TIME:
            seconds = _seconds(row)
            return in_words(seconds) if seconds else ""
        if row.state == states.ELSEWHERE:
            return states.STATES[row.state]
        return row.reason or "; ".join(row.warnings)

    def key(self, row: SlideStatus, column: Column) -> Any:
        """Return what a column is sorted by."""
        if column == Column.STATE:
            return _ORDER.index(row.state)
        if column == Column.PROGRESS:
            return share_of(row)
        if column == Column.PATCHES:
            return _patches(row)
        if column == Column.SPEED:
            return row.patches_per_second
        if column == Column.TIME:
            return _seconds(row)
        return self.text(row, column).casefold()

    def tip(self, row: SlideStatus, column: Column) -> str:
        """Return what a cell says under the mouse."""
        if column == Column.SLIDE:
            return row.slide
        if column == Column.STATE:
            return states.STATES[row.state]
        if column == Column.FINDING:
            found = row.result.get("probabilities", {})
            return "\n".join(f"{name}: {share:.3f}" for name, share in found.items())
        return self.text(row, column)


def _progress(row: SlideStatus) -> str:
    if row.good:
        return ""
    if row.state == states.RUNNING and row.patches_total and row.patches_done < row.patches_total:
        return f"{row.patches_done} of {row.patches_total}"
    return row.message  # a stage without numbers, or that it is tried again


def _patches(row: SlideStatus) -> int:
    return int(row.result.get("patches", 0) or row.patches_total)


def _seconds(row: SlideStatus) -> float:
    if row.state == states.RUNNING and row.started:
        began = datetime.fromisoformat(row.started)
        return max(0.0, (datetime.now(UTC) - began).total_seconds())
    return row.seconds
