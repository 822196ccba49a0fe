"""The features of a running extraction on the slide: one pixel per patch, as they arrive."""

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_2dmamba.explain.feature_colours import FeatureColours
from napari_2dmamba.plugin.layers.slide_layer import placement

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState
    from napari_2dmamba.slide import PatchGrid

LAYER_NAME = "Features so far"
_KEY = "2dmamba arriving features"
_MS_BETWEEN_UPDATES = 250


class ArrivingFeatures(QObject):
    """Shows batches on the main thread that an extraction hands over on its own.

    Only this small layer is drawn anew, and at most four times a second: the slide below is
    not touched, and panning stays as it is.

    Parameters
    ----------
    session, slide
        Where, and whose features.
    """

    def __init__(self, session: "Session", slide: "SlideState", parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._slide = session, slide
        self._grid: PatchGrid | None = None
        self._colours: FeatureColours | None = None
        self._shown = 0
        self._timer = QTimer(self)
        self._timer.setInterval(_MS_BETWEEN_UPDATES)
        self._timer.timeout.connect(self.show)
        self._timer.start()

    def on_batch(
        self,
        grid: "PatchGrid",
        first: int,
        features: NDArray[np.float32],
        kept: NDArray[np.bool_],
    ) -> None:
        """Take in a batch; see `features.extract.BatchCallback`."""
        if self._grid is None:
            self._grid, self._colours = grid, FeatureColours(len(grid))
        colours = self._colours  # the main thread may let go of them at any moment
        if colours is not None:
            colours.add(first, features, kept)

    def show(self) -> None:
        """Show what has arrived since the last time."""
        colours, grid = self._colours, self._grid
        if colours is None or grid is None or colours.count == self._shown:
            return
        if self._slide not in self._session.slides:
            return
        self._shown = colours.count
        pixels = np.zeros((*grid.canvas, 4), np.uint8)
        pixels[tuple(grid.cells.T)] = colours.rgba
        layer = arriving_layer(self._session, self._slide)
        if layer is None or layer.data.shape != pixels.shape:
            remove_arriving(self._session, self._slide)
            self._add(grid, pixels)
            return
        layer.data[...] = pixels
        layer.refresh(extent=False, highlight=False)

    def end(self) -> None:
        """Show what came last and no more."""
        self.show()
        self.let_go()

    def let_go(self) -> None:
        """Touch no layer any more."""
        self._timer.stop()
        self._colours = None
        self.deleteLater()

    def _add(self, grid: "PatchGrid", pixels: NDArray[np.uint8]) -> None:
        unit = self._slide.unit
        size = grid.patch_size_level0
        layer = Image(
            pixels,
            name=LAYER_NAME,
            rgb=True,
            scale=(size * unit,) * 2,
            translate=((size - 1) / 2 * unit,) * 2,
            units=placement(self._slide.slide.mpp)["units"],
            axis_labels=("y", "x"),
            interpolation2d="nearest",
            opacity=0.6,
            metadata={_KEY: True},
        )
        self._session.add_layer(self._slide, layer, of_run=True)


def arriving_layer(session: "Session", slide: "SlideState") -> Image | None:
    """Return the layer with the features of a slide, or None."""
    for layer in session.layers_of(slide):
        if isinstance(layer, Image) and _KEY in layer.metadata:
            return layer
    return None


def remove_arriving(session: "Session", slide: "SlideState") -> None:
    """Take the layer away, as when the result is there."""
    layer = arriving_layer(session, slide)
    if layer is not None:
        session.viewer.layers.remove(layer)
