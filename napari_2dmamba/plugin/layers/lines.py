"""Straight lines over a slide that are drawn anew often, at their width on screen."""

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Vectors
from numpy.typing import NDArray

from napari_2dmamba.plugin.layers.redrawn import Redrawn
from napari_2dmamba.plugin.layers.slide_layer import placement
from napari_2dmamba.plugin.layers.weak_callback import weak_callback

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState


class Lines(Redrawn, Vectors):
    """Lines without heads: napari's vectors, which cost a tenth of its shapes to change."""

    def draw(self, ends: NDArray[np.float64], colours: NDArray[np.float64]) -> None:
        """Draw these lines in place of those there were.

        Parameters
        ----------
        ends
            ``(n, 2, 2)``: both ends of each line as ``(y, x)``.
        colours
            ``(n, 4)``, 0 to 1.
        """
        # A slice of the lines before may be on its way, and must not miss the last of them.
        again = max(0, len(self.features) - len(ends))
        events = self.events
        with self._block_refresh(), events.data.blocker(), events.edge_color.blocker():
            self.data = as_vectors(np.concatenate([ends, np.repeat(ends[-1:], again, axis=0)]))
            self.edge_color = np.concatenate([colours, np.repeat(colours[-1:], again, axis=0)])
        self.redraw()

    def make_thumbnail(self) -> None:
        """Leave it to napari."""
        Vectors._update_thumbnail(self)

    @property
    def _type_string(self) -> str:
        return "vectors"


class LinesOnSlide:
    """One layer of lines of a viewer, which has it while there is something to draw.

    Parameters
    ----------
    session
        Its viewer gets the layer.
    name
        Of the layer.
    pixels
        Width of the lines on the screen at every zoom.
    """

    def __init__(self, session: "Session", name: str, pixels: float) -> None:
        self._session, self._viewer = session, session.viewer
        self._name, self._pixels = name, pixels
        self._key = f"2dmamba lines: {name}"
        self._follow = weak_callback(self._keep_width)
        self._viewer.scene.camera.events.zoom.connect(self._follow)

    @property
    def layer(self) -> Lines | None:
        """The layer, or None while there are no lines."""
        return next((one for one in self._viewer.layers if self._key in one.metadata), None)

    def draw(
        self,
        slide: "SlideState",
        ends: NDArray[np.float64],
        colours: NDArray[np.float64],
    ) -> Lines | None:
        """Draw lines of a slide, see `Lines.draw`; none take the layer away.

        Returns
        -------
        The layer, where it is a new one.
        """
        layer = self.layer
        if not len(ends):
            self.clear()
            return None
        if layer is not None:
            with self._viewer.layers.events.blocker_all():  # each paints napari's list of layers
                layer.draw(ends, colours)
            return None
        layer = Lines(
            as_vectors(ends),
            name=self._name,
            metadata={self._key: True},
            vector_style="line",
            edge_color=colours,
            axis_labels=("y", "x"),
            **placement(slide.slide.mpp),
        )
        self._session.add_layer(slide, layer, of_run=True)
        self._keep_width()
        return layer

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
        if layer is not None:
            layer.edge_width = self._pixels / self._viewer.scene.camera.zoom / layer.scale[-1]


def as_vectors(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return lines by their ends as napari wants them: by start and direction."""
    return np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)
