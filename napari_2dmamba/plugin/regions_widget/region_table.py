"""The list of what is drawn on a slide."""

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_2dmamba.plugin.layers.region_layers import ROLE_COLOURS, Annotation
from napari_2dmamba.plugin.layers.region_words import area_words, hex_of, length_words, region_names
from napari_2dmamba.slide.regions import Role

ROLE_WORDS: dict[Role, str] = {
    "include": "include",
    "exclude": "exclude",
    "note": "annotation only",
}
_COLUMNS = ("Name", "Class", "Role", "Area", "Length")
_TIPS = (
    "F2 renames; a double click goes there",
    "Class, as QuPath has it",
    "What it does to the next run: with areas to include, only they count; areas to exclude do "
    "not; what is for annotation only changes nothing",
    "Area on the slide",
    "Length of a line, or the way around an area",
)


class RegionTable(QTableWidget):
    """One line for each region.

    Signals
    -------
    zoom_wanted(number)
        A line was double clicked.
    """

    zoom_wanted = Signal(int)

    def __init__(self) -> None:
        super().__init__(0, len(_COLUMNS))
        self.setHorizontalHeaderLabels(_COLUMNS)
        for column, tip in enumerate(_TIPS):
            title = self.horizontalHeaderItem(column)
            assert title is not None
            title.setToolTip(tip)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        header, numbers = self.horizontalHeader(), self.verticalHeader()
        assert header is not None
        assert numbers is not None
        numbers.hide()
        self.setWordWrap(False)
        self.setMinimumHeight(90)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.doubleClicked.connect(lambda index: self.zoom_wanted.emit(index.row()))

    def show_annotations(self, found: Sequence[Annotation], mpp: float | None) -> None:
        """List what is drawn; the same lines stay selected where none has come or gone."""
        chosen = self.chosen() if self.rowCount() == len(found) else []
        self.blockSignals(True)
        self.setRowCount(len(found))
        names = region_names([one.region for one in found])
        for row, one in enumerate(found):
            region = one.region
            words = (
                names[row],
                region.classification,
                ROLE_WORDS[region.role],
                area_words(region, mpp),
                length_words(region.geometry.length, mpp) if region.geometry.length else "",
            )
            for column, word in enumerate(words):
                item = QTableWidgetItem(word)
                if column > 2:
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                item.setToolTip(word)
                if column == 0:
                    item.setIcon(_swatch(hex_of(region.colour) or ROLE_COLOURS[region.role]))
                self.setItem(row, column, item)
        self.blockSignals(False)
        self.choose(chosen)

    def chosen(self) -> list[int]:
        """Return the numbers of the selected lines."""
        return sorted({item.row() for item in self.selectedItems()})

    def choose(self, rows: Sequence[int]) -> None:
        """Select lines."""
        self.clearSelection()
        for row in rows:
            for column in range(self.columnCount()):
                item = self.item(row, column)
                if item is not None:
                    item.setSelected(True)


def _swatch(colour: str) -> QIcon:
    picture = QPixmap(12, 12)
    picture.fill(QColor(colour))
    return QIcon(picture)
