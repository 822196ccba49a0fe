"""What of a map lies above a threshold, as regions."""

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLineEdit, QPushButton, QSpinBox

from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.parts.section import Section
from napari_2dmamba.plugin.regions_widget.region_table import ROLE_WORDS
from napari_2dmamba.slide.regions import Role


class ThresholdSection(Section):
    """Which map, where it is cut, and what the regions are.

    Signals
    -------
    wanted()
        Make regions.
    """

    wanted = Signal()

    def __init__(self) -> None:
        super().__init__("Regions from a map", is_open=False)
        self._maps: tuple[HeatmapLayer, ...] = ()
        self.map = QComboBox()
        self.threshold = QLineEdit("90%")
        self.threshold.setToolTip(
            "A value of the map such as 0.9, or a percentile of its patches such as 90%; patches "
            "with a greater value become regions"
        )
        self.class_name = QLineEdit()
        self.class_name.setPlaceholderText("name of the map")
        self.role = QComboBox()
        for role in ("note", "include", "exclude"):
            self.role.addItem(ROLE_WORDS[role], role)
        self.least = QSpinBox()
        self.least.setRange(1, 9999)
        self.least.setToolTip("Smaller regions are left out")
        self.make = QPushButton("Make regions")
        self.make.clicked.connect(self.wanted)
        self.threshold.returnPressed.connect(self.wanted)
        rows = QFormLayout()
        for label, field in (
            ("Map", self.map),
            ("Above", self.threshold),
            ("Class", self.class_name),
            ("Role", self.role),
            ("At least, patches", self.least),
        ):
            rows.addRow(label, field)
        self.body.addLayout(rows)
        self.body.addWidget(self.make)
        self.set_maps(())

    def set_maps(self, maps: Sequence[HeatmapLayer]) -> None:
        """Offer the maps of the slide."""
        current = self.map.currentText()
        self._maps = tuple(maps)
        self.map.clear()
        self.map.addItems([layer.grid_map.name for layer in maps])
        self.map.setCurrentIndex(max(0, self.map.findText(current)) if maps else -1)
        self.make.setEnabled(bool(maps))
        self.make.setToolTip("" if maps else "Run a model first: this slide has no map")

    @property
    def chosen_map(self) -> HeatmapLayer | None:
        """The layer of the map that is chosen."""
        index = self.map.currentIndex()
        return self._maps[index] if 0 <= index < len(self._maps) else None

    @property
    def chosen_role(self) -> Role:
        """What the regions do to the next run."""
        role: Role = self.role.currentData()
        return role
