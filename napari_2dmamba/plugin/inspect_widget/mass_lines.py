"""Lines around the fewest patches that hold 50, 90 and 99 % of a map."""

from typing import TYPE_CHECKING

import numpy as np

from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.mass import LINE_COLOURS, PERCENTS, border, fewest_cells
from napari_2dmamba.plugin.layers.lines import LinesOnSlide

if TYPE_CHECKING:
    from napari_2dmamba.plugin.inspect_widget.query_layer import QueryLayer
    from napari_2dmamba.plugin.session import Session, SlideState

_LINE = 2.5  # screen pixels


class MassLines(LinesOnSlide):
    """The lines of the map that is looked at.

    Parameters
    ----------
    session
        Its viewer gets the layer.
    mark
        What marks the inspected patches, which lies above the lines.
    """

    def __init__(self, session: "Session", mark: "QueryLayer") -> None:
        super().__init__(session, "Lines: 50, 90, 99 %", _LINE)
        self._mark = mark

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
            [
                np.tile(np.append(np.array(LINE_COLOURS[percent]) / 255, 1.0), (len(lines), 1))
                for percent, lines in drawn
            ]
        )
        layer, mark = self.draw(slide, ends, colours), self._mark.layer
        if layer is not None and mark is not None:
            layers = self._viewer.layers
            layers.move(layers.index(layer), layers.index(mark))
        return {percent: int(cells.sum()) for percent, cells in held.items()}
