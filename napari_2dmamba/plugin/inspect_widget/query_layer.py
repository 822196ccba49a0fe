"""The patches that are asked about, marked on the slide."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray

from napari_2dmamba.plugin.layers.slide_layer import placement
from napari_2dmamba.plugin.parts.docked import weak_callback

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

_KEY = "2dmamba inspected patches"
_COLOUR = "#00d5ff"  # as the outline of a selected patch
_LINE = 2.0  # screen pixels
_CROSSHAIR_SHARE = 0.5  # of the outline's width


class QueryLayer:
    """Squares around the inspected patches, and a crosshair through the last of them.

    Lines keep their width on the screen at every zoom, so that a patch is found on the whole
    slide as well as at full resolution.

    Parameters
    ----------
    session
        Its viewer gets the layer.
    """

    def __init__(self, session: "Session") -> None:
        self._session, self._viewer = session, session.viewer
        self._follow = weak_callback(self._keep_width)
        self._viewer.scene.camera.events.zoom.connect(self._follow)

    @property
    def layer(self) -> Shapes | None:
        """The layer, or None while nothing is inspected."""
        return next((one for one in self._viewer.layers if _KEY in one.metadata), None)

    def show(self, slide: "SlideState", corners: Sequence[tuple[int, int]], size: int) -> None:
        """Mark patches by their level-0 corners; the last one gets the crosshair."""
        shapes = [(outline(*corner, size), "polygon") for corner in corners]
        shapes += [(line, "path") for line in crosshair(*corners[-1], size, slide.slide.dimensions)]
        layer = self.layer
        if layer is None:
            layer = Shapes(
                ndim=2,
                name="Inspected patch",
                metadata={_KEY: True},
                axis_labels=("y", "x"),
                **placement(slide.slide.mpp),
            )
            self._session.add_layer(slide, layer, of_run=True)
            layer.editable = False
        kinds = [kind for _, kind in shapes]
        # In one step, as each costs napari a new slice of every layer
        if layer.shape_type == kinds:
            layer.data = shapes
        else:
            layer.data = []
            layer.add(
                [one for one, _ in shapes], shape_type=kinds, face_color="transparent",
                edge_color=_COLOUR, edge_width=1,
            )  # fmt: skip
            layer.metadata[_KEY] = len(corners)
            self._keep_width()
        layer.selected_data = set()

    def clear(self) -> None:
        """Take the layer away."""
        layer = self.layer
        if layer is not None:
            self._viewer.layers.remove(layer)

    def let_go(self) -> None:
        """Stop following the zoom."""
        self._viewer.scene.camera.events.zoom.disconnect(self._follow)

    def _keep_width(self, event: Any = None) -> None:
        layer = self.layer
        if layer is None or not layer.nshapes:
            return
        width = _LINE / self._viewer.scene.camera.zoom / float(layer.scale[-1])
        squares = layer.metadata[_KEY]
        layer.edge_width = [
            width if number < squares else width * _CROSSHAIR_SHARE
            for number in range(layer.nshapes)
        ]
        layer.refresh()  # napari draws new widths only then


def outline(x: int, y: int, size: int) -> NDArray[np.float64]:
    """Return the corners ``(y, x)`` of a patch; whole numbers are centres of pixels."""
    return np.array([[0, 0], [0, 1], [1, 1], [1, 0]], dtype=float) * size + (y, x) - 0.5


def crosshair(x: int, y: int, size: int, dimensions: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Return the lines from the sides of a patch to the sides of the slide."""
    middle_y, middle_x = y + size / 2 - 0.5, x + size / 2 - 0.5
    left, top, right, bottom = x - 0.5, y - 0.5, x + size - 0.5, y + size - 0.5
    width, height = dimensions
    lines = [
        [(middle_y, 0), (middle_y, left)],
        [(middle_y, right), (middle_y, width)],
        [(0, middle_x), (top, middle_x)],
        [(bottom, middle_x), (height, middle_x)],
    ]
    return [np.array(line) for line in lines if line[0] != line[1]]
