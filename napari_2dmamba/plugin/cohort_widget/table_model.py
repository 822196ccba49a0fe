"""The cohort's table: one row per slide, updated in place."""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.cohort import status as states
from napari_2dmamba.plugin.cohort_widget.pace import in_words, share_of
from napari_2dmamba.plugin.cohort_widget.state_icons import PAUSED, state_icon

SORT_ROLE = Qt.ItemDataRole.UserRole
ROW_ROLE = Qt.ItemDataRole.UserRole + 1
SHARE_ROLE = Qt.ItemDataRole.UserRole + 2

Index = QModelIndex


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


_TITLES = {
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
_NUMBERS = (Column.PATCHES, Column.SPEED, Column.TIME)
_NAMES = {states.REUSED: "done before", states.ELSEWHERE: "other run"}
_ORDER = (
    states.FAILED, states.RUNNING, states.ELSEWHERE, states.STOPPED, states.WAITING, states.DONE,
    states.REUSED,
)  # fmt: skip


class CohortTable(QAbstractTableModel):
    """Slides and what became of them, in the order in which they were given."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[SlideStatus] = []
        self._places: dict[str, int] = {}
        self._paused = False

    @property
    def rows(self) -> tuple[SlideStatus, ...]:
        """The rows as they are now."""
        return tuple(self._rows)

    def set_rows(self, rows: Iterable[SlideStatus]) -> None:
        """Show other slides."""
        self.beginResetModel()
        self._rows = list(rows)
        self._places = {row.slide: place for place, row in enumerate(self._rows)}
        self.endResetModel()

    def update(self, rows: Iterable[SlideStatus]) -> None:
        """Take in rows that changed; slides that are not in the table are added to it."""
        rows = list(rows)
        known = {row.slide: row for row in rows if row.slide in self._places}
        new = {row.slide: row for row in rows if row.slide not in self._places}
        if known:
            places = [self._places[slide] for slide in known]
            for place, row in zip(places, known.values(), strict=True):
                self._rows[place] = row
            first, last = self.index(min(places), 0), self.index(max(places), len(Column) - 1)
            self.dataChanged.emit(first, last)
        if new:
            count = len(self._rows)
            self.beginInsertRows(QModelIndex(), count, count + len(new) - 1)
            self._rows += new.values()
            self._places |= {slide: count + i for i, slide in enumerate(new)}
            self.endInsertRows()

    def set_paused(self, is_paused: bool) -> None:
        """Say *paused* of slides that are worked on."""
        self._paused = is_paused
        if self._rows:
            last = len(self._rows) - 1
            self.dataChanged.emit(self.index(0, Column.STATE), self.index(last, Column.STATE))

    def state_of(self, row: SlideStatus) -> str:
        """Return a slide's state, or `PAUSED`."""
        return PAUSED if self._paused and row.state == states.RUNNING else row.state

    # -- what Qt asks for -----------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008, D102
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008, D102
        return 0 if parent.isValid() else len(Column)

    def headerData(  # noqa: D102
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return _TITLES[Column(section)]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(Column(section))
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: D102
        row, column = self._rows[index.row()], Column(index.column())
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(row, column)
        if role == ROW_ROLE:
            return row
        if role == SHARE_ROLE:
            return share_of(row)
        if role == SORT_ROLE:
            return self._sort_key(row, column)
        if role == Qt.ItemDataRole.DecorationRole and column == Column.STATE:
            return state_icon(self.state_of(row))
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(row, column)
        return None

    def _text(self, row: SlideStatus, column: Column) -> str:
        if column == Column.SLIDE:
            return row.name
        if column == Column.LABEL:
            return row.label or ""
        if column == Column.STATE:
            state = self.state_of(row)
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

    def _sort_key(self, row: SlideStatus, column: Column) -> Any:
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
        return self._text(row, column).casefold()

    def _tip(self, row: SlideStatus, column: Column) -> str:
        if column == Column.SLIDE:
            return row.slide
        if column == Column.STATE:
            return states.STATES[row.state]
        if column == Column.FINDING:
            found = row.result.get("probabilities", {})
            return "\n".join(f"{name}: {share:.3f}" for name, share in found.items())
        return self._text(row, column)


class ShownSlides(QSortFilterProxyModel):
    """The table's rows in the order and selection the user wants."""

    def __init__(self) -> None:
        super().__init__()
        self._words: tuple[str, ...] = ()
        self._states: tuple[str, ...] = ()
        self.setSortRole(SORT_ROLE)

    def set_filter(self, text: str, wanted: tuple[str, ...]) -> None:
        """Show slides with all words of ``text`` in one of the wanted states; empty: any."""
        self._words, self._states = tuple(text.casefold().split()), wanted
        self.invalidateFilter()

    def filterAcceptsRow(self, source_row: int, source_parent: Index) -> bool:  # noqa: D102
        table = self.sourceModel()
        assert isinstance(table, CohortTable)
        row = table.rows[source_row] if self._words or self._states else None
        if row is None:
            return True
        said = (row.name, row.label or "", row.state, row.finding, row.reason, *row.notes.values())
        text = " ".join(said).casefold()
        right_state = not self._states or row.state in self._states
        return right_state and all(word in text for word in self._words)


def _alignment(column: Column) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignRight if column in _NUMBERS else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter


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
