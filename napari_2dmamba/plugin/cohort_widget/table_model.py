"""The cohort's table as it is shown: filtered, sorted, updated in place.

Qt's own proxy asks Python for two values at every comparison, and stood still for seconds at ten
thousand slides; here a slide's key is made once, whenever its row changes.
"""

from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.cohort import status as states
from napari_2dmamba.plugin.cohort_widget.pace import in_words, share_of
from napari_2dmamba.plugin.cohort_widget.slide_rows import SlideRows
from napari_2dmamba.plugin.cohort_widget.state_icons import PAUSED, state_icon

ROW_ROLE = Qt.ItemDataRole.UserRole
SHARE_ROLE = Qt.ItemDataRole.UserRole + 1

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


class ShownSlides(QAbstractTableModel):
    """The rows in the order and selection the user wants.

    Parameters
    ----------
    table
        Every slide.
    """

    def __init__(self, table: SlideRows) -> None:
        super().__init__()
        self._table = table
        self._words: tuple[str, ...] = ()
        self._states: tuple[str, ...] = ()
        self._column: Column | None = None
        self._is_falling = False
        # For each place in the table: what it is sorted by, and whether it is shown
        self._keys: list[Any] = []
        self._fits: list[bool] = []
        self._order: list[int] = []
        self._shown_at: dict[int, int] = {}
        table.reset.connect(self._start_again)
        table.changed.connect(self._follow)
        self._start_again()

    def set_filter(self, text: str, wanted: tuple[str, ...]) -> None:
        """Show slides with all words of ``text`` in one of the wanted states; empty: any."""
        self._words, self._states = tuple(text.casefold().split()), wanted
        self._fits = [self._is_wanted(row) for row in self._table.rows]
        self._lay_out()

    def sort(  # noqa: D102
        self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder
    ) -> None:
        self._column = None if column < 0 else Column(column)
        self._is_falling = order == Qt.SortOrder.DescendingOrder
        self._keys = [self._key(row) for row in self._table.rows]
        self._lay_out()

    def _start_again(self) -> None:
        self.beginResetModel()
        rows = self._table.rows
        self._keys = [self._key(row) for row in rows]
        self._fits = [self._is_wanted(row) for row in rows]
        self._put_in_order(self._wanted_order())
        self.endResetModel()

    def _follow(self, places: list[int]) -> None:
        """Take in rows that changed, or that came in at the end."""
        new = len(self._table) - len(self._keys)
        self._keys += [None] * new
        self._fits += [False] * new
        for place in places:
            row = self._table[place]
            self._keys[place], self._fits[place] = self._key(row), self._is_wanted(row)
        self._lay_out()
        shown = [self._shown_at[place] for place in places if place in self._shown_at]
        if shown:
            last = self.index(max(shown), len(Column) - 1)
            self.dataChanged.emit(self.index(min(shown), 0), last)

    def _lay_out(self) -> None:
        """Move rows to where they belong now; a chosen slide stays chosen."""
        order = self._wanted_order()
        if order == self._order:
            return
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        held = [(self._order[index.row()], index.column()) for index in before]
        self._put_in_order(order)
        after = [
            self.index(self._shown_at[place], column) if place in self._shown_at else QModelIndex()
            for place, column in held
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def _wanted_order(self) -> list[int]:
        order = [place for place, fits in enumerate(self._fits) if fits]
        if self._column is not None:
            order.sort(key=self._keys.__getitem__, reverse=self._is_falling)
        return order

    def _put_in_order(self, order: list[int]) -> None:
        self._order = order
        self._shown_at = {place: row for row, place in enumerate(order)}

    def _is_wanted(self, row: SlideStatus) -> bool:
        if self._states and row.state not in self._states:
            return False
        if not self._words:
            return True
        said = (row.name, row.label or "", row.state, row.finding, row.reason, *row.notes.values())
        text = " ".join(said).casefold()
        return all(word in text for word in self._words)

    def _state_of(self, row: SlideStatus) -> str:
        """Return a slide's state, or `PAUSED`."""
        return PAUSED if self._table.is_paused and row.state == states.RUNNING else row.state

    # -- what Qt asks for -----------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008, D102
        return 0 if parent.isValid() else len(self._order)

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
        row, column = self._table[self._order[index.row()]], Column(index.column())
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(row, column)
        if role == ROW_ROLE:
            return row
        if role == SHARE_ROLE:
            return share_of(row)
        if role == Qt.ItemDataRole.DecorationRole and column == Column.STATE:
            return state_icon(self._state_of(row))
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

    def _key(self, row: SlideStatus) -> Any:
        column = self._column
        if column is None:
            return None
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
