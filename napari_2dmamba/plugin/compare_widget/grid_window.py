"""The window of a comparison: the linked grid, what it shows and what is under the cursor."""

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QSplitter, QWidget

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain.display import DisplaySettings, DisplayTransform
from napari_2dmamba.plugin.compare_widget.camera_link import CameraLink
from napari_2dmamba.plugin.compare_widget.linked_grid import LinkedGrid
from napari_2dmamba.plugin.compare_widget.panel import (
    Panel,
    difference_panel,
    ensemble_panels,
    entry_panels,
)
from napari_2dmamba.plugin.compare_widget.panel_list import PanelList
from napari_2dmamba.plugin.compare_widget.values_table import ValuesTable
from napari_2dmamba.plugin.layers.heatmap_layer import COLOUR_MAPS, SIGNED_COLOUR_MAPS
from napari_2dmamba.plugin.layers.map_layers import cell_at
from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Section, scrolling_column

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.compare import Comparison
    from napari_2dmamba.compare.figure import Rectangle
    from napari_2dmamba.slide import Slide

SIZE = 1500, 950
_COLUMN_WIDTH = 340
_MOST_ZOOMS = 4
_FIRST_DISPLAY = DisplaySettings(opacity=0.6)


class GridWindow(QWidget):
    """A window of its own beside the main one, so that its panels get the room they need.

    Parameters
    ----------
    slide
        The slide below all maps.
    viewer
        napari's main viewer: its theme is taken, and its camera can be followed.
    parent
        A widget of the main window; the grid closes with that window.

    Signals
    -------
    layers_wanted(panels)
        These panels are to become layers of the main window.
    closed()
    """

    layers_wanted = Signal(object)
    closed = Signal()

    def __init__(self, slide: "Slide", viewer: "Viewer", parent: QWidget) -> None:
        super().__init__(parent.window(), Qt.WindowType.Window)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(f"Comparison of {slide.name}")
        self._slide = slide
        self._comparison: Comparison | None = None
        self._cell: tuple[int, int] | None = None
        self.grid = LinkedGrid(slide, viewer.theme)
        self._link = CameraLink(viewer.scene.camera, self.grid.model.scene.camera)
        self.panel_list = PanelList()
        self.message = Message()
        self.form: Form[DisplaySettings] = Form(
            DisplaySettings,
            choices={"colormap": COLOUR_MAPS, "signed_colormap": SIGNED_COLOUR_MAPS},
        )
        self.form.set_settings(_FIRST_DISPLAY)
        self.one_range = QCheckBox("One range for all maps")
        self.one_range.setToolTip(
            "One colour means one value in all panels. Off, each map has a range of its own, "
            "which suits models whose scores differ in scale. Percentiles are on one scale anyway"
        )
        self.show_maps = QCheckBox("Show maps")
        self.show_maps.setToolTip("Untick to see the tissue alone")
        self.show_maps.setChecked(True)
        self.follow = QCheckBox("Move with the main window")
        self.caption = QLabel()
        self.caption.setWordWrap(True)
        self.fit = QPushButton("Fit")
        self.fit.setToolTip("Show the whole slide in every panel")
        self.to_layers = QPushButton("Add ticked panels to the main window")
        self.values = ValuesTable()
        self.zooms: list[Rectangle] = []
        self.add_zoom = QPushButton("Zoom box of this view")
        self.add_zoom.setToolTip(
            "The figure will mark what the panels show now and repeat it enlarged"
        )
        self.clear_zooms = QPushButton("None")
        self.zoom_count = QLabel()
        self._lay_out()
        self._connect()
        window = parent.window()
        self._main = window
        if window is not None:
            window.installEventFilter(self)

    def _lay_out(self) -> None:
        panels, colours, values = Section("Panels"), Section("Colours"), Section("Values")
        panels.body.addWidget(self.panel_list)
        panels.body.addWidget(self.message)
        panels.body.addWidget(self.to_layers)
        row = QHBoxLayout()
        row.addWidget(self.fit)
        row.addWidget(self.follow, 1)
        panels.body.addLayout(row)
        for widget in (self.show_maps, self.one_range, self.form, self.caption):
            colours.body.addWidget(widget)
        values.body.addWidget(self.values)
        figure = Section("Zoom boxes of the figure")
        row = QHBoxLayout()
        row.addWidget(self.add_zoom, 1)
        row.addWidget(self.clear_zooms)
        figure.body.addLayout(row)
        figure.body.addWidget(self.zoom_count)
        column = scrolling_column(panels, values, colours, figure)
        column.setMinimumWidth(_COLUMN_WIDTH)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(self.grid)
        split.addWidget(column)
        split.setStretchFactor(0, 1)
        split.setStretchFactor(1, 0)
        split.setCollapsible(0, False)
        split.setSizes([SIZE[0] - _COLUMN_WIDTH, _COLUMN_WIDTH])
        layout = QHBoxLayout(self)
        layout.setContentsMargins(2, 2, 2, 2)
        layout.addWidget(split)
        self.resize(*SIZE)

    def _connect(self) -> None:
        self.panel_list.changed.connect(self._show)
        self.panel_list.difference_wanted.connect(self._add_difference)
        self.panel_list.ensemble_wanted.connect(self._add_ensemble)
        self.form.changed.connect(self._draw)
        self.one_range.toggled.connect(self._draw)
        self.show_maps.toggled.connect(self.grid.set_maps_visible)
        self.follow.toggled.connect(self._link.set_on)
        self.fit.clicked.connect(self.grid.fit)
        self.to_layers.clicked.connect(lambda: self.layers_wanted.emit(self.panel_list.ticked))
        self.grid.pointed.connect(self._read)
        self.add_zoom.clicked.connect(self._add_zoom)
        self.clear_zooms.clicked.connect(self._clear_zooms)
        self._show_zooms()

    # -- what is shown --------------------------------------------------------------------

    def show_comparison(self, comparison: "Comparison") -> None:
        """Show the maps of a comparison in place of those before."""
        self._comparison = comparison
        self.message.clear()
        self.panel_list.offer(entry_panels(comparison))

    def _add_difference(self, first: int, second: int) -> None:
        if self._comparison is not None:
            self.message.clear()
            self.panel_list.show_panels([difference_panel(self._comparison, first, second)])

    def _add_ensemble(self, members: list[int]) -> None:
        if self._comparison is None:
            return
        self.message.clear()
        try:
            self.panel_list.show_panels(ensemble_panels(self._comparison, members))
        except UserError as error:
            self.message.say(str(error), "warning")

    @property
    def display(self) -> DisplaySettings:
        """How the maps are shown."""
        return self.form.settings()

    @property
    def shares_range(self) -> bool:
        """Whether one colour means one value in all panels."""
        return self.one_range.isEnabled() and self.one_range.isChecked()

    @property
    def ticked(self) -> list[Panel]:
        """The panels on display."""
        return self.panel_list.ticked

    def _show(self) -> None:
        self._draw()
        self.grid.set_maps_visible(self.show_maps.isChecked())
        if self._comparison is not None:
            made = [panel for panel in self.panel_list.panels if panel.entry is None]
            self.values.read_from(self._comparison, made)
        self._cell = None
        self.grid.mark(None)
        self.to_layers.setEnabled(bool(self.ticked))

    def _draw(self) -> None:
        display = self.display
        self.one_range.setEnabled(display.transform != "percentile")
        self.grid.show_panels(self.ticked, display, one_range=self.shares_range)
        if self.ticked:
            words = DisplayTransform(self.ticked[0].grid_map, display).caption()
            whose = "one range for all maps" if self.shares_range else "each map by itself"
            self.caption.setText(f"Colours {words}; {whose}.")

    def _read(self, y: float, x: float) -> None:
        if not self.grid.maps:
            return
        layer = self.grid.maps[0]
        row, col = cell_at(layer, (y, x))
        if (row, col) == self._cell:
            return
        self._cell = row, col
        corner = None
        if self.values.show_cell(row, col):
            size, (left, top) = layer.grid_map.patch_size_level0, layer.grid_map.origin
            corner = int(left + col * size), int(top + row * size)
        self.grid.mark(corner)

    def _add_zoom(self) -> None:
        seen = self.grid.seen()
        if seen is not None and len(self.zooms) < _MOST_ZOOMS:
            self.zooms.append(seen)
            self._show_zooms()

    def _clear_zooms(self) -> None:
        self.zooms.clear()
        self._show_zooms()

    def _show_zooms(self) -> None:
        unit = "px" if self._slide.mpp is None else "µm"
        lines = [
            f"{number}: {width:.0f} × {height:.0f} {unit} at x {x:.0f}, y {y:.0f} {unit}"
            for number, (x, y, width, height) in enumerate(self.zooms, 1)
        ]
        self.grid.frame(self.zooms)
        self.zoom_count.setText("\n".join(lines) or "None yet: move the panels to a region first.")
        self.clear_zooms.setEnabled(bool(self.zooms))
        self.add_zoom.setEnabled(len(self.zooms) < _MOST_ZOOMS)

    def screenshot(self) -> np.ndarray:
        """Return the canvas as it is shown, ``(h, w, 3)`` uint8."""
        return np.asarray(self.grid.screenshot())[..., :3]

    # -- closing --------------------------------------------------------------------------

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Close with the main window; a spontaneous hiding is that of a minimised one."""
        if (
            event is not None
            and watched is self._main
            and event.type() == QEvent.Type.Hide
            and not event.spontaneous()
        ):
            self.close()
        return False

    def closeEvent(self, event: Any) -> None:
        """Let go of the viewers and of the canvas."""
        if self._main is not None:
            self._main.removeEventFilter(self)
            self._main = None
            self._link.set_on(False)
            self.grid.let_go()
            self.closed.emit()
        super().closeEvent(event)
