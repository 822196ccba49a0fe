"""A table of rows on screen: filter, order, and what a double click opens."""

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QMenu,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.plugin.parts.row_look import ROW_LOOK
from napari_2dmamba.plugin.parts.row_table import ROW_ROLE, RowTable


class RowView(QWidget):
    """Shows a `RowTable`.

    Attributes
    ----------
    above
        The line above the table: the filter, and what else is put there.

    Signals
    -------
    open_wanted(row)
    """

    open_wanted = Signal(object)

    def __init__(self, shown: RowTable, widths: Mapping[Any, int], filter_hint: str) -> None:
        super().__init__()
        self.shown = shown
        self.search = QLineEdit()
        self.search.setPlaceholderText(filter_hint)
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(shown.set_filter)
        self.view = self._make_view(widths)
        self.above = QHBoxLayout()
        self.above.addWidget(self.search, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 0)
        layout.setSpacing(4)
        layout.addLayout(self.above)
        layout.addWidget(self.view, 1)

    def menu_for(self, row: Any) -> QMenu | None:
        """Return what can be done with a row, or None where there is only opening it."""
        return None

    def _make_view(self, widths: Mapping[Any, int]) -> QTableView:
        view = QTableView()
        view.setModel(self.shown)
        view.setStyleSheet(ROW_LOOK)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setAlternatingRowColors(True)
        view.setShowGrid(False)
        view.setWordWrap(False)
        view.setTextElideMode(Qt.TextElideMode.ElideRight)
        view.setSortingEnabled(True)
        view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        below, header = view.verticalHeader(), view.horizontalHeader()
        assert below is not None
        assert header is not None
        below.hide()
        below.setDefaultSectionSize(24)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)  # as given
        header.setSortIndicatorClearable(True)
        header.setSectionsMovable(True)
        header.setHighlightSections(False)
        header.setStretchLastSection(True)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for column, width in widths.items():
            view.setColumnWidth(column, width)
        view.doubleClicked.connect(lambda index: self.open_wanted.emit(index.data(ROW_ROLE)))
        view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        view.customContextMenuRequested.connect(self._ask_what)
        enter = QShortcut(QKeySequence(Qt.Key.Key_Return), view)
        enter.setContext(Qt.ShortcutContext.WidgetShortcut)
        enter.activated.connect(self._open_current)
        return view

    def _ask_what(self, place: Any) -> None:
        index, port = self.view.indexAt(place), self.view.viewport()
        menu = self.menu_for(index.data(ROW_ROLE)) if index.isValid() else None
        if menu is not None and port is not None:
            menu.exec(port.mapToGlobal(place))

    def _open_current(self) -> None:
        index = self.view.currentIndex()
        if index.isValid():
            self.open_wanted.emit(index.data(ROW_ROLE))
