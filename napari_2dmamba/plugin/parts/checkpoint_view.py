"""The shared list of checkpoints as one widget shows it: filtered, sorted, held against a slide."""

from enum import Enum
from typing import Any

from qtpy.QtCore import QModelIndex, QObject, QSortFilterProxyModel, Qt
from qtpy.QtGui import QBrush, QColor, QIcon, QPainter, QPixmap

from napari_2dmamba.checkpoints.columns import COLUMNS, Row, matches, sort_key
from napari_2dmamba.checkpoints.fit import Fit, InputFacts, State, fits
from napari_2dmamba.plugin.parts.checkpoint_model import ROW, CheckpointModel

_COLOURS = {
    State.FITS: "#1f9d55",
    State.UNSURE: "#d9a400",
    State.EXTRACT: "#2f7fd1",
    State.NO: "#d0483e",
    State.UNUSABLE: "#8a8a8a",
}
_FIT = next(place for place, column in enumerate(COLUMNS) if column.name == "fit")


class Shown(Enum):
    """Which checkpoints a table shows; the value is what the user chooses."""

    ALL = "Show all"
    USABLE = "Show readable"
    FITTING = "Show fitting"


class CheckpointView(QSortFilterProxyModel):
    """A view of the shared list.

    Parameters
    ----------
    checkpoints
        The shared list.
    """

    def __init__(self, checkpoints: CheckpointModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.checkpoints = checkpoints
        self._subject: InputFacts | None = None
        self._words, self._shown = "", Shown.ALL
        self._fits: dict[str, Fit] = {}
        self._keys: dict[tuple[int, str], Any] = {}
        self.setDynamicSortFilter(True)
        self.setSourceModel(checkpoints)
        checkpoints.dataChanged.connect(self._forget)
        self.sort(0)

    @property
    def subject(self) -> InputFacts | None:
        """What checkpoints are held against."""
        return self._subject

    def hold_against(self, subject: InputFacts | None) -> None:
        """Say of each checkpoint whether it suits a slide and its features."""
        if subject == self._subject:
            return
        self._subject = subject
        self._forget()
        self.invalidate()
        if self.rowCount():
            corner = self.index(self.rowCount() - 1, self.columnCount() - 1)
            self.dataChanged.emit(self.index(0, 0), corner)

    def show_only(self, words: str = "", shown: Shown = Shown.ALL) -> None:
        """Hide lines that lack one of the words, or that are not of the kind asked for."""
        self._words, self._shown = words, shown
        self.invalidate()

    def row(self, index: QModelIndex) -> Row:
        """Return the checkpoint of a line, with its fit."""
        return self._with_fit(self.checkpoints.row_at(self.mapToSource(index).row()))

    def line_of(self, location: str) -> int:
        """Return the line of a checkpoint, or -1 where it is hidden or not there."""
        for line in range(self.rowCount()):
            if self.row(self.index(line, 0)).summary.location == location:
                return line
        return -1

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """See `QAbstractItemModel.data`."""
        if not index.isValid():
            return None
        if role == Qt.ItemDataRole.DisplayRole and index.column() != _FIT:
            return super().data(index, role)
        if role == ROW:
            return self.row(index)
        column = COLUMNS[index.column()]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if column.is_number else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        if role not in (
            Qt.ItemDataRole.DisplayRole,
            Qt.ItemDataRole.ToolTipRole,
            Qt.ItemDataRole.DecorationRole,
            Qt.ItemDataRole.ForegroundRole,
        ):
            return super().data(index, role)
        row = self.row(index)
        if role == Qt.ItemDataRole.DisplayRole:
            return column.text(row)
        if role == Qt.ItemDataRole.ToolTipRole:
            return tooltip(row) if column.name in ("name", "fit") else column.text(row)
        if role == Qt.ItemDataRole.DecorationRole and index.column() == _FIT and row.fit:
            return dot(row.fit.state)
        if role == Qt.ItemDataRole.ForegroundRole and row.summary.problem:
            return QBrush(QColor("#8a8a8a"))
        return None

    def filterAcceptsRow(self, source_row: int, source_parent: QModelIndex) -> bool:
        """See `QSortFilterProxyModel.filterAcceptsRow`."""
        row = self._with_fit(self.checkpoints.row_at(source_row))
        if self._shown is Shown.USABLE and row.summary.problem:
            return False
        if self._shown is Shown.FITTING and not (row.fit and row.fit.usable):
            return False
        return matches(row, self._words)

    def lessThan(self, left: QModelIndex, right: QModelIndex) -> bool:
        """See `QSortFilterProxyModel.lessThan`; what is not stated comes last either way."""
        first, second = self._key(left), self._key(right)
        if first is None or second is None:
            descending = self.sortOrder() == Qt.SortOrder.DescendingOrder
            return (first is None) == descending and (second is None) != descending
        return bool(first < second)

    def _key(self, index: QModelIndex) -> Any:
        row: Row = self.checkpoints.data(index, ROW)
        place = index.column(), row.summary.location
        if place not in self._keys:
            self._keys[place] = sort_key(COLUMNS[index.column()], self._with_fit(row))
        return self._keys[place]

    def _with_fit(self, row: Row) -> Row:
        summary = row.summary
        if summary.location not in self._fits:
            if summary.problem:
                fit: Fit | None = Fit(State.UNUSABLE, summary.problem)
            elif self._subject is None or summary.architecture is None:
                fit = None
            else:
                fit = fits(summary, self._subject)
            if fit is None:
                return row
            self._fits[summary.location] = fit
        return Row(summary, self._fits[summary.location], row.note)

    def _forget(self, *_: Any) -> None:
        self._fits.clear()
        self._keys.clear()


def tooltip(row: Row) -> str:
    """Return where a checkpoint lies, and how it suits."""
    return row.summary.location + (f"\n{row.fit.sentence}" if row.fit else "")


def dot(state: State) -> QIcon:
    """Return a coloured dot."""
    if state not in _dots:
        pixmap = QPixmap(24, 24)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(_COLOURS[state]))
        painter.drawEllipse(4, 4, 16, 16)
        painter.end()
        _dots[state] = QIcon(pixmap)
    return _dots[state]


_dots: dict[State, QIcon] = {}
