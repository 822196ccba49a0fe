"""The table of slides: label, prediction and error, in the order the user wants."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHBoxLayout,
    QLineEdit,
    QStyle,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.plugin.parts.row_look import ROW_LOOK
from napari_2dmamba.plugin.training_widget.rows import SlideRow

ROW_ROLE = Qt.ItemDataRole.UserRole
SORT_ROLE = Qt.ItemDataRole.UserRole + 1


class Column(IntEnum):
    """The columns from left to right."""

    SLIDE = 0
    LABEL = 1
    MODEL = 2
    PREDICTION = 3
    ERROR = 4
    PROBLEM = 5


_TITLES = {
    Column.SLIDE: "Slide",
    Column.LABEL: "Label",
    Column.MODEL: "Tested by",
    Column.PREDICTION: "Prediction",
    Column.ERROR: "Error",
    Column.PROBLEM: "Remarks",
}
_HELP = {
    Column.MODEL: "The model that did not see this slide while it was trained",
    Column.PREDICTION: "The answer of that model, and its probability or risk",
    Column.ERROR: "0 is best: 1 minus the probability of the right class, or the share of pairs "
    "that the risk orders wrongly",
}
_WIDTHS = {
    Column.SLIDE: 200, Column.LABEL: 110, Column.MODEL: 80, Column.PREDICTION: 150,
    Column.ERROR: 70,
}  # fmt: skip


class SlideTable(QAbstractTableModel):
    """The slides of a table in its order."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[SlideRow] = []

    @property
    def rows(self) -> tuple[SlideRow, ...]:
        """The rows as they are now."""
        return tuple(self._rows)

    def set_rows(self, rows: Iterable[SlideRow]) -> None:
        """Show other rows."""
        self.beginResetModel()
        self._rows = list(rows)
        self.endResetModel()

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008, D102
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008, D102
        return 0 if parent.isValid() else len(Column)

    def headerData(  # noqa: D102
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        column = Column(section)
        if role == Qt.ItemDataRole.DisplayRole:
            return _TITLES[column]
        return _HELP.get(column) if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: D102
        row, column = self._rows[index.row()], Column(index.column())
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return _text(row, column)
        if role == ROW_ROLE:
            return row
        if role == SORT_ROLE:
            if column == Column.ERROR:
                return row.error if row.has_error else -1.0
            return _text(row, column).casefold()
        if role == Qt.ItemDataRole.DecorationRole and column == Column.PROBLEM and row.problem:
            return problem_icon(stops=row.stops)
        return None


def _text(row: SlideRow, column: Column) -> str:
    if column == Column.SLIDE:
        return row.name
    if column == Column.LABEL:
        return row.label
    if column == Column.MODEL:
        return row.model
    if column == Column.PREDICTION:
        return row.prediction
    if column == Column.ERROR:
        return f"{row.error:.3f}" if row.has_error else ""
    return row.problem


def problem_icon(*, stops: bool) -> Any:
    """Return the sign of what must be mended, or of what is only to be known."""
    style = QApplication.style()
    assert style is not None
    kind = QStyle.StandardPixmap
    return style.standardIcon(kind.SP_MessageBoxCritical if stops else kind.SP_MessageBoxWarning)


class SlidesView(QWidget):
    """Shows a `SlideTable`.

    Attributes
    ----------
    row
        Above the table; holds the filter, and what the widget adds.

    Signals
    -------
    open_wanted(row)
    """

    open_wanted = Signal(object)

    def __init__(self, table: SlideTable) -> None:
        super().__init__()
        self.shown = QSortFilterProxyModel()
        self.shown.setSourceModel(table)
        self.shown.setSortRole(SORT_ROLE)
        self.shown.setFilterKeyColumn(-1)
        self.shown.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Filter by slide, label, prediction or remark")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self.shown.setFilterFixedString)
        self.view = QTableView()
        view = self.view
        view.setModel(self.shown)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setAlternatingRowColors(True)
        view.setStyleSheet(ROW_LOOK)
        view.setShowGrid(False)
        view.setWordWrap(False)
        view.setSortingEnabled(True)
        view.setToolTip("A double click opens the slide, with its map where a run of it is saved")
        below, header = view.verticalHeader(), view.horizontalHeader()
        assert below is not None
        assert header is not None
        below.hide()
        below.setDefaultSectionSize(24)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)  # as in the table
        header.setSortIndicatorClearable(True)
        header.setHighlightSections(False)
        header.setStretchLastSection(True)
        for column, width in _WIDTHS.items():
            view.setColumnWidth(column, width)
        view.doubleClicked.connect(lambda index: self.open_wanted.emit(index.data(ROW_ROLE)))
        enter = QShortcut(QKeySequence(Qt.Key.Key_Return), view)
        enter.setContext(Qt.ShortcutContext.WidgetShortcut)
        enter.activated.connect(self._open_current)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 0)
        layout.setSpacing(4)
        self.row = QHBoxLayout()
        self.row.addWidget(self.search, 1)
        layout.addLayout(self.row)
        layout.addWidget(view, 1)

    def worst_first(self) -> None:
        """Show the largest errors on top."""
        self.view.sortByColumn(Column.ERROR, Qt.SortOrder.DescendingOrder)

    def _open_current(self) -> None:
        index = self.view.currentIndex()
        if index.isValid():
            self.open_wanted.emit(index.data(ROW_ROLE))
