"""The patches that are asked about, marked on the slide."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.explain.mass import QUERY_COLOUR
from napari_2dmamba.plugin.layers.lines import LinesOnSlide

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

_LINE = 2.0  # screen pixels
_FAINT = 0.5  # opacity of the crosshair


class QueryLayer(LinesOnSlide):
    """Squares around the inspected patches, and a faint crosshair through the last of them.

    Parameters
    ----------
    session
        Its viewer gets the layer.
    """

    def __init__(self, session: "Session") -> None:
        super().__init__(session, "Inspected patch", _LINE)

    def show(self, slide: "SlideState", corners: Sequence[tuple[int, int]], size: int) -> None:
        """Mark patches by their level-0 corners; the last one gets the crosshair."""
        sides = np.concatenate([outline(*corner, size) for corner in corners])
        cross = crosshair(*corners[-1], size, slide.slide.dimensions)
        colours = np.tile(
            np.append(np.array(QUERY_COLOUR) / 255, 1.0), (len(sides) + len(cross), 1)
        )
        colours[len(sides) :, 3] = _FAINT
        self.draw(slide, np.concatenate([sides, cross]), colours)


def outline(x: int, y: int, size: int) -> NDArray[np.float64]:
    """Return the sides of a patch, ``(4, 2, 2)``; whole numbers are centres of pixels."""
    corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) * size + (y, x) - 0.5
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)


def crosshair(x: int, y: int, size: int, dimensions: tuple[int, int]) -> NDArray[np.float64]:
    """Return the lines from the sides of a patch to those of the slide, ``(n, 2, 2)``."""
    middle_y, middle_x = y + size / 2 - 0.5, x + size / 2 - 0.5
    left, top, right, bottom = x - 0.5, y - 0.5, x + size - 0.5, y + size - 0.5
    width, height = dimensions
    lines = np.array(
        [
            [(middle_y, 0), (middle_y, left)],
            [(middle_y, right), (middle_y, width)],
            [(0, middle_x), (top, middle_x)],
            [(bottom, middle_x), (height, middle_x)],
        ]
    )
    return lines[(lines[:, 0] != lines[:, 1]).any(axis=1)]
