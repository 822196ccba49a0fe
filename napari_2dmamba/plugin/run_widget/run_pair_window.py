"""A window with two saved runs side by side."""

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialog,
    QHeaderView,
    QLabel,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.plugin.parts.row_look import ROW_LOOK

if TYPE_CHECKING:
    from napari_2dmamba.compare import RunPair


class RunPairWindow(QDialog):
    """A table with one column per run, and how far they look at the same patches.

    What differs is in bold.
    """

    def __init__(self, pair: "RunPair", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(f"Two runs of {pair.first.record.slide.name}")
        self.table = QTreeWidget()
        self.table.setRootIsDecorated(False)
        self.table.setAlternatingRowColors(True)
        self.table.setStyleSheet(ROW_LOOK)
        self.table.setHeaderLabels(["", "First run", "Second run"])
        for row in pair.rows:
            item = QTreeWidgetItem(list(row))
            for column in (1, 2):
                font = item.font(column)
                font.setBold(row[1] != row[2])
                item.setFont(column, font)
                item.setToolTip(column, row[column])
            self.table.addTopLevelItem(item)
        self.table.setWordWrap(True)
        header = self.table.header()
        assert header is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.words = QLabel(pair.in_words)
        self.words.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.words)
        self.resize(760, 180 + 26 * len(pair.rows))
