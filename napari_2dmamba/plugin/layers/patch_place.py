"""Where a patch lies, in the numbers that exports and record have too."""

import numpy as np

from napari_2dmamba.slide.grid import cells_of


def place_of(corner: tuple[int, int], size: int) -> tuple[int, int]:
    """Return ``(row, col)`` of a patch on the slide's own grid, as tables and GeoJSON count.

    Counted from the corner of level 0, never from the corner of a map.

    Parameters
    ----------
    corner
        Level-0 ``(x, y)`` of the patch's top left corner.
    size
        Its side in level-0 pixels.
    """
    row, col = cells_of(np.array([corner]), size)[0]
    return int(row), int(col)


def place_words(corner: tuple[int, int], size: int) -> str:
    """Return the place of a patch in words: the same ones wherever a patch is read."""
    row, col = place_of(corner, size)
    return f"x {corner[0]}, y {corner[1]} (level 0) · row {row}, column {col}"
