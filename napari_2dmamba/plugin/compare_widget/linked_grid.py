"""The slide with one map in each of several panels that move as one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Points, Shapes
from napari.qt import QtViewer
from qtpy.QtCore import QEvent, QObject, QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_2dmamba.compare.figure_marks import box_colour
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.plugin.compare_widget.panel import Panel, shared_limits
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.slide_layer import placement, show_scale_bar, slide_layer_data
from napari_2dmamba.plugin.layers.weak_callback import weak_callback

if TYPE_CHECKING:
    from napari_2dmamba.compare.figure import Rectangle
    from napari_2dmamba.slide import Slide

_MARK_COLOUR = "#00d5ff"  # neither in H&E nor in the colour maps
_SPACING = 6  # screen pixels between panels
_ROOM = " \N{NO-BREAK SPACE}"  # the box round a heading is a little narrow
_MARK_DELAY = 40  # ms
_BOX_EDGE = 2.0  # screen pixels
_LAYERS = 4  # of a panel: slide, map, zoom boxes, mark


class LinkedGrid(QWidget):
    """A canvas of napari's in its grid mode: one camera, the slide below every map.

    All panels read the slide through its one tile cache.

    Parameters
    ----------
    slide
        What lies below the maps; must be brightfield.
    theme
        Name of the napari theme of the canvas.

    Signals
    -------
    pointed(y, x)
        The cursor is at this world position, in whichever panel.
    """

    pointed = Signal(float, float)

    def __init__(self, slide: "Slide", theme: str) -> None:
        super().__init__()
        self._slide = slide
        self._fitted: tuple[float, ...] = ()
        self.model = ViewerModel(title=slide.name)
        self.model.theme = theme
        self._view = QtViewer(self.model)
        self._view.setAcceptDrops(False)  # a file dropped here would become a layer
        self._view.canvas.native.installEventFilter(self)
        grid = self.model.canvas.grid
        grid.stride, grid.spacing = _LAYERS, _SPACING
        show_scale_bar(self.model)
        self._boxes: list[Rectangle] = []
        self._marked: tuple[int, int] | None = None
        self._marking = QTimer(self)  # all panels are drawn again, which costs more than a move
        self._marking.setSingleShot(True)
        self._marking.setInterval(_MARK_DELAY)
        self._marking.timeout.connect(self._draw_marks)
        self.model.scene.camera.events.zoom.connect(self._on_zoom)
        self._on_move = weak_callback(self._on_mouse_move)
        self.model.mouse_move_callbacks.append(self._on_move)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)

    # -- what is shown --------------------------------------------------------------------

    def show_panels(
        self, panels: Sequence[Panel], display: DisplaySettings, *, one_range: bool
    ) -> None:
        """Show these panels in place of those shown before.

        The camera stays where the user moved it.

        Parameters
        ----------
        panels
            From the top left, row by row.
        display
            How all of them are shown.
        one_range
            Whether the models' maps share limits and ranks, or each has its own.
        """
        is_fitted = not self.model.layers or self._camera == self._fitted
        pools = shared_limits(panels) if one_range else {}
        if len(self.maps) != len(panels):
            with self._grid_off():
                while len(self.maps) > len(panels):
                    del self.model.layers[-_LAYERS:]
                for panel in panels[len(self.maps) :]:
                    self._add_panel(panel, panel.display(display))
            self._draw_boxes()
        for number, (panel, layer) in enumerate(zip(panels, self.maps, strict=True)):
            pool = None if panel.entry is None else pools.get(panel.grid_map.signed)
            layer.show_map(panel.grid_map, pool)
            layer.display = panel.display(display)
            heading = self.model.layers[_LAYERS * number]  # stays when maps are hidden
            heading.name = "\n".join(line + _ROOM for line in (panel.title, panel.caption) if line)
        if is_fitted and panels:
            self.fit()  # more panels are smaller ones

    # vispy draws each part of a layer by itself, empty ones too, and that is what a step of
    # panning costs: layers without anything in them are hidden
    def _add_panel(self, panel: Panel, display: DisplaySettings) -> None:
        ((data, options, _),) = slide_layer_data(self._slide)
        slide = Image(data, **options)
        slide.name_overlay.visible = True
        slide.name_overlay.box = True
        self.model.add_layer(slide)
        layer = HeatmapLayer(panel.grid_map, display)
        layer.colorbar.size = (12, 90)
        layer.colorbar.font_size = 8
        self.model.add_layer(layer)
        boxes = Shapes(
            ndim=2,
            name="zoom boxes",
            opacity=1.0,
            visible=False,
            axis_labels=("y", "x"),
            **placement(self._slide.mpp),
        )
        self.model.add_layer(boxes)
        mark = Points(
            np.zeros((0, 2)),
            name="cursor",
            visible=False,
            symbol="square",
            size=layer.grid_map.patch_size_level0,
            face_color="transparent",
            border_color=_MARK_COLOUR,
            border_width=0.1,
            axis_labels=("y", "x"),
            **placement(self._slide.mpp),
        )
        mark.canvas_size_limits = (10, 10_000)
        self.model.add_layer(mark)

    @contextmanager
    def _grid_off(self) -> Iterator[None]:
        """Arrange the panels once, not after every layer."""
        grid = self.model.canvas.grid
        grid.enabled = False
        try:
            yield
        finally:
            grid.enabled = True

    @property
    def maps(self) -> list[HeatmapLayer]:
        """The layers of the maps, panel by panel."""
        return [layer for layer in self.model.layers if isinstance(layer, HeatmapLayer)]

    @property
    def is_loaded(self) -> bool:
        """Whether every panel shows what it is to show."""
        drawn = not self._marking.isActive()
        return drawn and all(layer.loaded for layer in self.model.layers)

    def set_maps_visible(self, visible: bool) -> None:
        """Show the tissue with the maps, or alone."""
        for layer in self.maps:
            layer.visible = visible

    def mark(self, corner: tuple[int, int] | None) -> None:
        """Frame the patch of this level-0 ``(x, y)`` in every panel, soon; None frames nothing."""
        if corner != self._marked:
            self._marked = corner
            self._marking.start()

    def _draw_marks(self) -> None:
        layers = [layer for layer in self.model.layers if isinstance(layer, Points)]
        if not layers:
            return
        place = np.zeros((0, 2))
        if self._marked is not None:
            x, y = self._marked
            half = (self.maps[0].grid_map.patch_size_level0 - 1) / 2
            place = np.array([[y + half, x + half]])
        for layer in layers:
            layer.data = place
            layer.visible = len(place) > 0

    def frame(self, boxes: Sequence["Rectangle"]) -> None:
        """Frame and number these regions in every panel, in the figure's colours.

        Each is ``(x, y, width, height)`` as `seen` returns it.
        """
        self._boxes = list(boxes)
        self._draw_boxes()

    def _draw_boxes(self) -> None:
        unit = self._slide.mpp or 1.0
        corners = [
            np.array([[y, x], [y + height, x + width]]) / unit - 0.5
            for x, y, width, height in self._boxes
        ]
        colours = [box_colour(number) for number in range(1, len(corners) + 1)]
        for layer in self._box_layers:
            layer.data = []
            layer.visible = bool(corners)
            if not corners:
                continue
            layer.add_rectangles(
                corners, edge_width=self._box_edge, edge_color=colours, face_color="transparent"
            )
            layer.text = {
                "string": [str(number) for number in range(1, len(corners) + 1)],
                "color": colours,
                "size": 12,
                "anchor": "upper_left",
            }

    @property
    def _box_layers(self) -> list[Shapes]:
        return [layer for layer in self.model.layers if isinstance(layer, Shapes)]

    @property
    def _box_edge(self) -> float:
        """Width of a box's edge in level-0 pixels, the same on the screen at every zoom."""
        return _BOX_EDGE / self.model.scene.camera.zoom / (self._slide.mpp or 1.0)

    def fit(self) -> None:
        """Look at the whole slide."""
        self.model.fit_to_view(
            layers=[layer for layer in self.model.layers if type(layer) is Image]
        )
        self._fitted = self._camera

    def seen(self) -> tuple[float, float, float, float] | None:
        """Return what every panel shows of the slide, ``(x, y, width, height)``.

        From the corner of level 0 in µm, or in level-0 pixels on a slide without µm per pixel;
        None when that is nothing.
        """
        camera, unit = self.model.scene.camera, self._slide.mpp or 1.0
        rows, columns = self.model.canvas.grid.actual_shape(self.model.layers)
        height, width = (
            (side - _SPACING * (count - 1)) / count / camera.zoom
            for side, count in zip(self.model.canvas.size, (rows, columns), strict=True)
        )
        # whole numbers are pixel centres in napari, and corners in the file
        y, x = (float(middle) + unit / 2 for middle in camera.center[-2:])
        right, bottom = (side * unit for side in self._slide.dimensions)
        x0, x1 = max(x - width / 2, 0.0), min(x + width / 2, right)
        y0, y1 = max(y - height / 2, 0.0), min(y + height / 2, bottom)
        return (x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None

    @property
    def _camera(self) -> tuple[float, ...]:
        camera = self.model.scene.camera
        return (*camera.center, camera.zoom)

    def screenshot(self, path: str | None = None) -> Any:
        """Return the canvas as it is shown, ``(h, w, 4)`` uint8."""
        return self._view.screenshot(path, flash=False)

    # -- Qt -------------------------------------------------------------------------------

    def _on_zoom(self, event: Any = None) -> None:
        if self._boxes:
            for layer in self._box_layers:
                layer.edge_width = self._box_edge
                layer.refresh()  # which the width alone does not do

    def _on_mouse_move(self, model: Any, event: Any) -> None:
        y, x = event.position[-2:]
        self.pointed.emit(float(y), float(x))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Keep napari's shortcuts away: some would take the grid apart or turn it to 3D."""
        keys = (QEvent.Type.KeyPress, QEvent.Type.KeyRelease, QEvent.Type.ShortcutOverride)
        return event is not None and event.type() in keys

    def let_go(self) -> None:
        """Give back canvas, textures and threads; the widget cannot be used any more."""
        self._marking.stop()
        if self._on_move in self.model.mouse_move_callbacks:
            self.model.mouse_move_callbacks.remove(self._on_move)
        self.model.scene.camera.events.zoom.disconnect(self._on_zoom)
        self._view.canvas.native.removeEventFilter(self)
        self._view.close()
