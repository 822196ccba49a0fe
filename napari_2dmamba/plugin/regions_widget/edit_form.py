"""Name, class, role and colour of what is selected in the list."""

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QColorDialog,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QWidget,
)

from napari_2dmamba.plugin.layers.region_layers import ROLE_COLOURS, ROLES
from napari_2dmamba.plugin.layers.region_words import hex_of
from napari_2dmamba.plugin.regions_widget.region_table import ROLE_WORDS
from napari_2dmamba.slide import Region

CLASS_COLOURS = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
}
"""Classes that a new QuPath project has, in its colours."""


class EditForm(QWidget):
    """Changes what is selected, as soon as a field is left.

    Signals
    -------
    changed(fields)
        Fields of `Region` with what the user gave them.
    delete_wanted()
    """

    changed = Signal(dict)
    delete_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.name = QLineEdit()
        self.name.setPlaceholderText("no name")
        self.name.editingFinished.connect(self._name)
        self.classification = QComboBox()
        self.classification.setEditable(True)
        self.classification.addItems(["", *CLASS_COLOURS])
        self.classification.textActivated.connect(self._class)
        line = self.classification.lineEdit()
        assert line is not None
        line.setPlaceholderText("no class")
        line.editingFinished.connect(lambda: self._class(self.classification.currentText()))
        self.role = QComboBox()
        for role in ROLES:
            self.role.addItem(ROLE_WORDS[role], role)
        self.role.activated.connect(lambda _: self._role())
        self.colour = QPushButton()
        self.colour.setFixedWidth(44)
        self.colour.setAccessibleName("Colour")
        self.colour.setToolTip("Colour")
        self.colour.clicked.connect(self._colour)
        self.delete = QPushButton("Delete")
        self.delete.setToolTip("Delete the selected regions (Delete)")
        self.delete.clicked.connect(self.delete_wanted)
        self._shown: Region | None = None
        last = QHBoxLayout()
        last.addWidget(self.role, 1)
        last.addWidget(self.colour)
        last.addWidget(self.delete)
        rows = QFormLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Name", self.name)
        rows.addRow("Class", self.classification)
        rows.addRow("Role", last)
        self.show_regions(())

    def show_regions(self, regions: Sequence[Region]) -> None:
        """Show what is selected; of several, the first."""
        self._shown = regions[0] if regions else None
        self.setEnabled(bool(regions))
        shown = self._shown
        self.name.setText("" if shown is None else shown.name)
        self.classification.setCurrentText("" if shown is None else shown.classification)
        if shown is not None:
            self.role.setCurrentIndex(ROLES.index(shown.role))
        # a line or a point can be neither taken in nor left out
        self.role.setEnabled(all(one.polygons for one in regions))
        ink = "" if shown is None else hex_of(shown.colour) or ROLE_COLOURS[shown.role]
        self.colour.setStyleSheet(f"background: {ink};" if ink else "")

    def _name(self) -> None:
        if self._shown is not None and self.name.text().strip() != self._shown.name:
            self.changed.emit({"name": self.name.text().strip()})

    def _class(self, text: str) -> None:
        if self._shown is not None and text.strip() != self._shown.classification:
            self.changed.emit({"classification": text.strip()})

    def _role(self) -> None:
        if self._shown is not None and self.role.currentData() != self._shown.role:
            self.changed.emit({"role": self.role.currentData()})

    def _colour(self) -> None:
        assert self._shown is not None
        before = hex_of(self._shown.colour) or ROLE_COLOURS[self._shown.role]
        colour = QColorDialog.getColor(QColor(before), self, "Colour of the region")
        if colour.isValid():
            self.changed.emit({"colour": (colour.red(), colour.green(), colour.blue())})
