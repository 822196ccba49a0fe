"""A window with two saved runs side by side."""

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QLabel, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

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
        self.table.setHeaderLabels(["", "First run", "Second run"])
        for row in pair.rows:
            item = QTreeWidgetItem(list(row))
            for column in (1, 2):
                font = item.font(column)
                font.setBold(row[1] != row[2])
                item.setFont(column, font)
                item.setToolTip(column, row[column])
            self.table.addTopLevelItem(item)
        for column in range(3):
            self.table.resizeColumnToContents(column)
            self.table.setColumnWidth(column, min(260, self.table.columnWidth(column) + 12))
        self.words = QLabel(pair.in_words)
        self.words.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.words)
        self.resize(720, 140 + 24 * len(pair.rows))
