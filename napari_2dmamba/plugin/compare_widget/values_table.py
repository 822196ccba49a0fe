"""What every map holds at the patch under the cursor."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.explain.display import format_value
from napari_2dmamba.plugin.compare_widget.panel import Panel
from napari_2dmamba.slide.grid import place_words

if TYPE_CHECKING:
    from napari_2dmamba.compare import Comparison

_HINT = "Move over a panel to read a patch of all of them."
_COLUMNS = ("Map", "Value", "Rank", "Percentile")


class ValuesTable(QWidget):
    """One row per map: value, rank and percentile of one patch."""

    def __init__(self) -> None:
        super().__init__()
        self._comparison: Comparison | None = None
        self._more: tuple[Panel, ...] = ()
        self.place = QLabel(_HINT)
        self.place.setWordWrap(True)
        self.place.setMinimumHeight(2 * self.place.fontMetrics().height() + 4)
        self.table = plain_table(_COLUMNS)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.place)
        layout.addWidget(self.table)

    def read_from(self, comparison: "Comparison", more: Sequence[Panel]) -> None:
        """Read the maps of a comparison from now on, and those made of them."""
        self._comparison, self._more = comparison, tuple(more)
        titles = [*comparison.titles, *(panel.title for panel in more)]
        fill(self.table, [[title, "", "", ""] for title in titles])
        self._clear(_HINT)

    def show_cell(self, row: int, col: int) -> bool:
        """Read one cell of the maps; returns whether a patch lies there."""
        comparison = self._comparison
        readings = () if comparison is None else comparison.values_at((row, col))
        corner = None if comparison is None else comparison.corner_at((row, col))
        if comparison is None or corner is None:
            self._clear("No patch here")
            return False
        self.place.setText(
            f"One of {len(comparison.bag)} patches<br>"
            + place_words(corner, comparison.bag.patch_size_level0)
        )
        for number, one in enumerate(readings):
            known = not math.isnan(one.value)
            rank, percentile = (f"{one.rank:.0f}", f"{one.percentile:.0f}") if known else ("", "")
            self._write(number, (format_value(one.value), rank, percentile))
        for number, panel in enumerate(self._more, start=len(readings)):
            value = float(panel.grid_map.values[row, col])
            self._write(number, (format_value(value), "", ""))
        return True

    def _clear(self, words: str) -> None:
        self.place.setText(words)
        for row in range(self.table.rowCount()):
            self._write(row, ("", "", ""))

    def _write(self, row: int, texts: Sequence[str]) -> None:
        for col, text in enumerate(texts, start=1):
            item = self.table.item(row, col)
            if item is not None:
                item.setText(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)


def plain_table(columns: Sequence[str]) -> QTableWidget:
    """Return a table to read: the first column takes the room, the others what they need."""
    table = QTableWidget(0, len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
    table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    rows = table.verticalHeader()
    header = table.horizontalHeader()
    assert rows is not None
    assert header is not None
    rows.hide()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    return table


def fill(table: QTableWidget, rows: Sequence[Sequence[str]]) -> None:
    """Write rows of texts; the table becomes as high as they are."""
    table.setRowCount(len(rows))
    for number, texts in enumerate(rows):
        for col, text in enumerate(texts):
            item = QTableWidgetItem(text)
            item.setToolTip(text)
            is_number = col > 0 and any(mark.isdigit() for mark in text)
            side = Qt.AlignmentFlag.AlignRight if is_number else Qt.AlignmentFlag.AlignLeft
            item.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
            table.setItem(number, col, item)
    table.resizeRowsToContents()
    header = table.horizontalHeader()
    assert header is not None
    height = header.sizeHint().height() + 2 * table.frameWidth()
    height += sum(table.rowHeight(row) for row in range(table.rowCount()))
    table.setFixedHeight(height + 2)
