"""The table of checkpoints, with what filters it; for any widget that lists or picks some."""

from typing import Any

from qtpy.QtCore import QItemSelectionModel, Qt, Signal
from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QMenu,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.checkpoints.columns import COLUMNS, Row
from napari_2dmamba.plugin.parts.checkpoint_model import CheckpointModel
from napari_2dmamba.plugin.parts.checkpoint_view import CheckpointView, Shown

_WIDTHS = {
    "name": 220, "fit": 142, "architecture": 96, "task": 95, "classes": 170, "encoder": 120,
    "features": 72, "patch": 78, "mpp": 58, "score": 105, "date": 88, "size": 68, "note": 180,
}  # fmt: skip


class CheckpointTable(QWidget):
    """A filter line above the table; several lines may be selected.

    Parameters
    ----------
    checkpoints
        The shared list.

    Signals
    -------
    selection_changed()
    activated(row)
        A line was double-clicked, or Enter pressed on it.
    removal_wanted()
        The delete key was pressed.
    """

    selection_changed = Signal()
    activated = Signal(object)
    removal_wanted = Signal()

    def __init__(self, checkpoints: CheckpointModel) -> None:
        super().__init__()
        self.view = CheckpointView(checkpoints, self)
        self.words = QLineEdit()
        self.words.setPlaceholderText("Filter by name, architecture, encoder, class, note…")
        self.words.setClearButtonEnabled(True)
        self.words.setAccessibleName("Filter")
        self.shown = QComboBox()
        self.shown.addItems([one.value for one in Shown])
        self.shown.setAccessibleName("Which checkpoints to show")
        self.shown.setToolTip("Which checkpoints to show")
        self.table = _Table()
        self.table.setModel(self.view)
        self.table.setAccessibleName("Checkpoints")
        self.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        for place, column in enumerate(COLUMNS):
            self.table.setColumnWidth(place, _WIDTHS[column.name])
        self.top = QHBoxLayout()
        self.top.addWidget(self.words, 1)
        self.top.addWidget(self.shown)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(self.top)
        layout.addWidget(self.table, 1)
        self.words.textChanged.connect(self._filter)
        self.shown.currentIndexChanged.connect(self._filter)
        self.table.doubleClicked.connect(lambda index: self.activated.emit(self.view.row(index)))
        self.table.entered_on.connect(self._activate_current)
        self.table.delete_pressed.connect(self.removal_wanted)
        selection = self.table.selectionModel()
        assert selection is not None
        selection.selectionChanged.connect(lambda *_: self.selection_changed.emit())

    @property
    def selected_rows(self) -> list[Row]:
        """The selected checkpoints, from top to bottom."""
        selection = self.table.selectionModel()
        assert selection is not None
        indexes = sorted(selection.selectedRows(), key=lambda index: index.row())
        return [self.view.row(index) for index in indexes]

    def select(self, location: str) -> None:
        """Select a checkpoint and scroll to it; one that is filtered out stays so."""
        line = self.view.line_of(location)
        if line >= 0:
            index = self.view.index(line, 0)
            flags = QItemSelectionModel.SelectionFlag
            selection = self.table.selectionModel()
            assert selection is not None
            selection.setCurrentIndex(index, flags.ClearAndSelect | flags.Rows)
            self.table.scrollTo(index)

    def _filter(self) -> None:
        self.view.show_only(self.words.text(), list(Shown)[self.shown.currentIndex()])

    def _activate_current(self) -> None:
        index = self.table.currentIndex()
        if index.isValid():
            self.activated.emit(self.view.row(index))


class _Table(QTableView):
    entered_on = Signal()
    delete_pressed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setSortingEnabled(True)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)  # Tab leaves the table
        lines, header = self.verticalHeader(), self.horizontalHeader()
        assert lines is not None
        assert header is not None
        lines.hide()
        lines.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        lines.setDefaultSectionSize(self.fontMetrics().height() + 8)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setStretchLastSection(True)
        header.setSectionsMovable(True)
        header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        header.customContextMenuRequested.connect(self._offer_columns)

    def keyPressEvent(self, event: Any) -> None:
        """Enter uses, Delete removes, Ctrl+C copies; everything else is Qt's."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.entered_on.emit()
        elif event.key() == Qt.Key.Key_Delete:
            self.delete_pressed.emit()
        elif event.matches(QKeySequence.StandardKey.Copy):
            self._copy()
        else:
            super().keyPressEvent(event)

    def _copy(self) -> None:
        """Copy the selected lines, as text that spreadsheets take."""
        selection, model = self.selectionModel(), self.model()
        assert selection is not None
        assert model is not None
        clipboard = QApplication.clipboard()
        places = sorted(index.row() for index in selection.selectedRows())
        lines = [[column.title for column in COLUMNS]]
        for line in places:
            cells = [model.index(line, place) for place in range(len(COLUMNS))]
            lines.append([str(model.data(cell) or "") for cell in cells])
        if clipboard is not None:
            clipboard.setText("\n".join("\t".join(line) for line in lines))

    def _offer_columns(self, position: Any) -> None:
        menu, header = QMenu(self), self.horizontalHeader()
        assert header is not None
        for place, column in enumerate(COLUMNS[1:], start=1):
            action = QAction(column.title, menu)
            action.setCheckable(True)
            action.setChecked(not self.isColumnHidden(place))
            action.toggled.connect(lambda on, place=place: self.setColumnHidden(place, not on))
            menu.addAction(action)
        menu.exec(header.mapToGlobal(position))
