"""Lines around the fewest patches that hold 50, 90 and 99 % of a map."""

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes, Vectors

from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.mass import LINE_COLOURS, PERCENTS, border, fewest_cells
from napari_2dmamba.plugin.layers.slide_layer import placement
from napari_2dmamba.plugin.parts.docked import weak_callback

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

_KEY = "2dmamba lines of a map"
_LINE = 2.5  # screen pixels


class MassLines:
    """One layer of lines that follows the map that is looked at.

    Lines keep their width on the screen at every zoom.

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
    def layer(self) -> Vectors | None:
        """The layer, or None while no lines are shown."""
        return next((one for one in self._viewer.layers if _KEY in one.metadata), None)

    def show(self, slide: "SlideState", grid_map: GridMap) -> dict[int, int]:
        """Draw the lines of a map, in place of others.

        Returns
        -------
        How many patches hold each percentage.
        """
        held = fewest_cells(grid_map.values)
        drawn = [(percent, border(held[percent])) for percent in reversed(PERCENTS)]
        size, (x, y) = grid_map.patch_size_level0, grid_map.origin
        ends = np.concatenate([lines for _, lines in drawn]) * size + (y - 0.5, x - 0.5)
        colours = np.concatenate(
            [np.tile(np.array(LINE_COLOURS[p]) / 255, (len(lines), 1)) for p, lines in drawn]
        )
        vectors = np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)
        layer = self.layer
        if not len(vectors):
            self.clear()
        elif layer is None:
            layer = Vectors(
                vectors,
                name="Lines: 50, 90, 99 %",
                metadata={_KEY: True},
                vector_style="line",
                edge_color=colours,
                axis_labels=("y", "x"),
                **placement(slide.slide.mpp),
            )
            self._session.add_layer(slide, layer, of_run=True)
            layers = self._viewer.layers
            shapes = [index for index, one in enumerate(layers) if isinstance(one, Shapes)]
            if shapes:
                layers.move(layers.index(layer), shapes[0])  # below the patch's square
        else:
            # A layer that is sliced in the background must not lose lines meanwhile: where there
            # are fewer than before, the last one is drawn again.
            again = max(0, len(layer.data) - len(vectors))
            layer.data = np.concatenate([vectors, np.repeat(vectors[-1:], again, axis=0)])
            layer.edge_color = np.concatenate([colours, np.repeat(colours[-1:], again, axis=0)])
        self._keep_width()
        return {percent: int(cells.sum()) for percent, cells in held.items()}

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
            layer.edge_width = _LINE / self._viewer.scene.camera.zoom / float(layer.scale[-1])
