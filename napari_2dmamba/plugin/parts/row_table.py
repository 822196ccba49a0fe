"""A table of rows as it is shown: filtered, sorted, updated in place.

Qt's own proxy asks Python for two values at every comparison, and stood still for seconds at ten
thousand slides; here a row's key is made once, whenever the row changes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar, Protocol

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt

ROW_ROLE = Qt.ItemDataRole.UserRole

_ALIGNED = Qt.AlignmentFlag.AlignVCenter
_Index = QModelIndex


class Rows(Protocol):
    """Rows in the order of a table."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class RowTable(QAbstractTableModel):
    """Rows in the order and selection the user wants.

    A subclass says what its rows and columns are, and calls `start_again` and `follow` when rows
    have changed.

    Attributes
    ----------
    titles
        Of the columns, from left to right.
    help
        What the title of a column does not say.
    numbers
        Columns that are aligned to the right.
    """

    titles: ClassVar[Mapping[Any, str]]
    help: ClassVar[Mapping[Any, str]] = {}
    numbers: ClassVar[Sequence[IntEnum]] = ()

    def __init__(self) -> None:
        super().__init__()
        self._columns = tuple(self.titles)
        self._words: tuple[str, ...] = ()
        self._sorted_by: Any = None
        self._is_falling = False
        # For each place among all rows: what it is sorted by, and whether it is shown
        self._keys: list[Any] = []
        self._fits: list[bool] = []
        self._order: list[int] = []
        self._shown_at: dict[int, int] = {}

    # -- what a subclass says -----------------------------------------------------------------

    def all_rows(self) -> Rows:
        """Return every row, in the order of the table."""
        raise NotImplementedError

    def text(self, row: Any, column: Any) -> str:
        """Return what a cell says."""
        raise NotImplementedError

    def key(self, row: Any, column: Any) -> Any:
        """Return what a column is sorted by."""
        return self.text(row, column).casefold()

    def searched(self, row: Any) -> Iterable[str]:
        """Return the texts that the filter looks in."""
        return (self.text(row, column) for column in self._columns)

    def is_wanted(self, row: Any) -> bool:
        """Whether a row may be shown, whatever the filter says."""
        return True

    def tip(self, row: Any, column: Any) -> str:
        """Return what a cell says under the mouse."""
        return self.text(row, column)

    def picture(self, row: Any, column: Any) -> Any:
        """Return the icon of a cell, or None."""
        return None

    # -- what is shown ------------------------------------------------------------------------

    def set_filter(self, text: str) -> None:
        """Show rows that hold all words of a text."""
        self._words = tuple(text.casefold().split())
        self.choose_rows()

    def choose_rows(self) -> None:
        """Look anew at which rows are shown."""
        self._fits = [self._does_fit(row) for row in self.all_rows()]
        self._lay_out()

    def sort(  # noqa: D102
        self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder
    ) -> None:
        self._sorted_by = None if column < 0 else self._columns[column]
        self._is_falling = order == Qt.SortOrder.DescendingOrder
        self._keys = [self._key(row) for row in self.all_rows()]
        self._lay_out()

    def start_again(self) -> None:
        """Take in other rows."""
        self.beginResetModel()
        rows = self.all_rows()
        self._keys = [self._key(row) for row in rows]
        self._fits = [self._does_fit(row) for row in rows]
        self._put_in_order(self._wanted_order())
        self.endResetModel()

    def follow(self, places: Sequence[int]) -> None:
        """Take in rows that changed, or that came in at the end."""
        rows = self.all_rows()
        new = len(rows) - len(self._keys)
        self._keys += [None] * new
        self._fits += [False] * new
        for place in places:
            self._keys[place], self._fits[place] = (
                self._key(rows[place]),
                self._does_fit(rows[place]),
            )
        self._lay_out()
        shown = [self._shown_at[place] for place in places if place in self._shown_at]
        if shown:
            last = self.index(max(shown), len(self._columns) - 1)
            self.dataChanged.emit(self.index(min(shown), 0), last)

    def _lay_out(self) -> None:
        """Move rows to where they belong now; a chosen row stays chosen."""
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
        if self._sorted_by is not None:
            order.sort(key=self._keys.__getitem__, reverse=self._is_falling)
        return order

    def _put_in_order(self, order: list[int]) -> None:
        self._order = order
        self._shown_at = {place: row for row, place in enumerate(order)}

    def _key(self, row: Any) -> Any:
        return None if self._sorted_by is None else self.key(row, self._sorted_by)

    def _does_fit(self, row: Any) -> bool:
        if not self.is_wanted(row):
            return False
        if not self._words:
            return True
        text = " ".join(self.searched(row)).casefold()
        return all(word in text for word in self._words)

    # -- what Qt asks for -----------------------------------------------------------------

    def rowCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008, D102
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008, D102
        return 0 if parent.isValid() else len(self._columns)

    def headerData(  # noqa: D102
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        column = self._columns[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return self.titles[column]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(column)
        return self.help.get(column) if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: D102
        row = self.all_rows()[self._order[index.row()]]
        column = self._columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self.text(row, column)
        if role == ROW_ROLE:
            return row
        if role == Qt.ItemDataRole.DecorationRole:
            return self.picture(row, column)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self.tip(row, column)
        return None

    def _alignment(self, column: Any) -> Qt.AlignmentFlag:
        if column in self.numbers:
            return Qt.AlignmentFlag.AlignRight | _ALIGNED
        return Qt.AlignmentFlag.AlignLeft | _ALIGNED
