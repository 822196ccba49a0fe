"""The table on screen: filter, order, progress bars, and what can be done with a slide."""

from typing import Any

from qtpy.QtCore import QModelIndex, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QGuiApplication, QKeySequence, QPainter, QPalette, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QMenu,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.cohort import status as states
from napari_2dmamba.plugin.cohort_widget.slide_rows import SlideRows
from napari_2dmamba.plugin.cohort_widget.table_model import (
    ROW_ROLE,
    SHARE_ROLE,
    Column,
    ShownSlides,
)

_WIDTHS = {
    Column.SLIDE: 190, Column.LABEL: 80, Column.STATE: 105, Column.PROGRESS: 140,
    Column.PATCHES: 66, Column.SPEED: 74, Column.FINDING: 185, Column.TIME: 90,
}  # fmt: skip
_LOOK = """
QTableView { alternate-background-color: rgba(127, 127, 127, 28); }
QTableView::item { padding: 0 6px; }
QHeaderView::section { padding: 2px 6px; }
"""
_GROUPS: dict[str, tuple[str, ...]] = {
    "All": (),
    "Failed": (states.FAILED,),
    "At work": (states.RUNNING, states.ELSEWHERE),
    "Done": (states.DONE, states.REUSED),
    "Not done": (states.WAITING, states.STOPPED),
}


class TableView(QWidget):
    """Shows `SlideRows`.

    Signals
    -------
    open_wanted(row), folder_wanted(row), log_wanted(row)
    """

    open_wanted = Signal(object)
    folder_wanted = Signal(object)
    log_wanted = Signal(object)

    def __init__(self, table: SlideRows) -> None:
        super().__init__()
        self._table = table
        self.shown = ShownSlides(table)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Filter by slide, label, prediction or reason")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._filter)
        self.group = QComboBox()
        self.group.setToolTip("Which slides the table shows")
        self.group.addItems(list(_GROUPS))
        self.group.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.group.currentIndexChanged.connect(self._filter)
        row = QHBoxLayout()
        row.addWidget(self.search, 1)
        row.addWidget(self.group)
        self.view = self._make_view()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 0)
        layout.setSpacing(4)
        layout.addLayout(row)
        layout.addWidget(self.view, 1)
        table.reset.connect(self._follow_table)
        table.changed.connect(self._follow_table)
        self._follow_table()

    def _make_view(self) -> QTableView:
        view = QTableView()
        view.setModel(self.shown)
        view.setItemDelegateForColumn(Column.PROGRESS, ProgressDelegate(view))
        for column in (Column.SLIDE, Column.FINDING):
            view.setItemDelegateForColumn(column, NameDelegate(view))
        view.setStyleSheet(_LOOK)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setAlternatingRowColors(True)
        view.setShowGrid(False)
        view.setWordWrap(False)
        view.setTextElideMode(Qt.TextElideMode.ElideRight)
        view.setSortingEnabled(True)
        view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        below = view.verticalHeader()
        assert below is not None
        below.hide()
        below.setDefaultSectionSize(24)
        header = view.horizontalHeader()
        assert header is not None
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)  # as given
        header.setSortIndicatorClearable(True)
        header.setSectionsMovable(True)
        header.setHighlightSections(False)
        header.setStretchLastSection(True)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for column, width in _WIDTHS.items():
            view.setColumnWidth(column, width)
        view.doubleClicked.connect(lambda index: self.open_wanted.emit(index.data(ROW_ROLE)))
        view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        view.customContextMenuRequested.connect(self._ask_what)
        enter = QShortcut(QKeySequence(Qt.Key.Key_Return), view)
        enter.setContext(Qt.ShortcutContext.WidgetShortcut)
        enter.activated.connect(self._open_current)
        return view

    def menu_for(self, row: SlideStatus) -> QMenu:
        """Return what can be done with a slide."""
        menu = QMenu(self)

        def offer(text: str, do: Any, is_possible: bool) -> None:
            action = menu.addAction(text)
            assert action is not None
            action.setEnabled(is_possible)
            action.triggered.connect(do)

        has_run = row.good and "feature_size" not in row.result
        offer(
            "Open the result" if has_run else "Open the slide",
            lambda: self.open_wanted.emit(row),
            True,
        )
        offer("Show the folder", lambda: self.folder_wanted.emit(row), bool(row.folder))
        offer("Show the log", lambda: self.log_wanted.emit(row), bool(row.folder))
        offer("Copy the reason", lambda: copy_text(row.reason), bool(row.reason))
        offer("Copy the slide's path", lambda: copy_text(row.slide), True)
        return menu

    def _ask_what(self, place: Any) -> None:
        index = self.view.indexAt(place)
        port = self.view.viewport()
        if index.isValid() and port is not None:
            self.menu_for(index.data(ROW_ROLE)).exec(port.mapToGlobal(place))

    def _open_current(self) -> None:
        index = self.view.currentIndex()
        if index.isValid():
            self.open_wanted.emit(index.data(ROW_ROLE))

    def _filter(self) -> None:
        wanted = list(_GROUPS.values())[self.group.currentIndex()]
        self.shown.set_filter(self.search.text(), wanted)

    def _follow_table(self) -> None:
        slides = len(self._table)
        for place, (name, wanted) in enumerate(_GROUPS.items()):
            count = self._table.count(*wanted) if wanted else slides
            self.group.setItemText(place, f"{name} ({count})" if slides else name)
        if self.view.isColumnHidden(Column.LABEL) == self._table.has_labels:
            self.view.setColumnHidden(Column.LABEL, not self._table.has_labels)


class NameDelegate(QStyledItemDelegate):
    """Shortens in the middle: slides often differ at their ends, where predictions say how sure."""

    def initStyleOption(self, option: Any, index: QModelIndex) -> None:
        """Say so."""
        super().initStyleOption(option, index)
        option.textElideMode = Qt.TextElideMode.ElideMiddle


class ProgressDelegate(QStyledItemDelegate):
    """Draws how far a slide is, with the number on the bar."""

    def paint(
        self, painter: QPainter | None, option: QStyleOptionViewItem, index: QModelIndex
    ) -> None:
        """Draw the cell."""
        assert painter is not None
        row: SlideStatus = index.data(ROW_ROLE)
        share, text = float(index.data(SHARE_ROLE)), str(index.data())
        if not row.good and not (row.state == states.RUNNING and row.patches_total):
            super().paint(painter, option, index)
            return
        bar = QRectF(option.rect).adjusted(4, 5, -4, -5)
        ink = option.palette.color(QPalette.ColorRole.Text)
        trough, fill = QColor(127, 127, 127, 70), QColor("#86c295" if row.good else "#7fb0e6")
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(trough)
        painter.drawRoundedRect(bar, 3, 3)
        painter.setBrush(fill)
        painter.drawRoundedRect(
            QRectF(bar.left(), bar.top(), bar.width() * share, bar.height()), 3, 3
        )
        painter.setPen(ink)
        painter.drawText(bar, Qt.AlignmentFlag.AlignCenter, text)
        painter.restore()


def copy_text(text: str) -> None:
    """Put a text on the clipboard."""
    clipboard = QGuiApplication.clipboard()
    if clipboard is not None:
        clipboard.setText(text)
