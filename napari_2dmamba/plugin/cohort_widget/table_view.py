"""The table on screen: filter, order, progress bars, and what can be done with a slide."""

from typing import Any

from qtpy.QtCore import QModelIndex, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QGuiApplication, QPainter, QPalette
from qtpy.QtWidgets import QComboBox, QMenu, QStyledItemDelegate, QStyleOptionViewItem

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.pace import share_of
from napari_2dmamba.plugin.cohort_widget.slide_rows import SlideRows
from napari_2dmamba.plugin.cohort_widget.table_model import CohortTable, Column
from napari_2dmamba.plugin.parts.row_table import ROW_ROLE
from napari_2dmamba.plugin.parts.row_view import RowView

_WIDTHS = {
    Column.SLIDE: 190, Column.LABEL: 80, Column.STATE: 105, Column.PROGRESS: 140,
    Column.PATCHES: 66, Column.SPEED: 74, Column.FINDING: 185, Column.TIME: 90,
}  # fmt: skip
_GROUPS: dict[str, tuple[str, ...]] = {
    "All": (),
    "Failed": (states.FAILED,),
    "At work": (states.RUNNING, states.ELSEWHERE),
    "Done": (states.DONE, states.REUSED),
    "Not done": (states.WAITING, states.STOPPED),
}


class TableView(RowView):
    """Shows `SlideRows`.

    Signals
    -------
    folder_wanted(row), log_wanted(row)
    """

    folder_wanted = Signal(object)
    log_wanted = Signal(object)

    def __init__(self, table: SlideRows) -> None:
        self._table, self._cohort = table, CohortTable(table)
        super().__init__(self._cohort, _WIDTHS, "Filter by slide, label, prediction or reason")
        self.view.setItemDelegateForColumn(Column.PROGRESS, ProgressDelegate(self.view))
        for column in (Column.SLIDE, Column.FINDING):
            self.view.setItemDelegateForColumn(column, NameDelegate(self.view))
        self.group = QComboBox()
        self.group.setToolTip("Which slides the table shows")
        self.group.addItems(list(_GROUPS))
        self.group.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.group.currentIndexChanged.connect(self._choose_group)
        self.above.addWidget(self.group)
        table.reset.connect(self._follow_table)
        table.changed.connect(self._follow_table)
        self._follow_table()

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

    def _choose_group(self, place: int) -> None:
        self._cohort.set_states(list(_GROUPS.values())[place])

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
        share, text = share_of(row), str(index.data())
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
