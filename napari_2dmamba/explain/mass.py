"""The fewest cells that hold a share of a map, and the lines around them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERCENTS = (50, 90, 99)
"""Shares of the mass that radii and lines are given for."""

LINE_COLOURS: dict[int, tuple[int, int, int]] = {
    50: (0, 60, 25),
    90: (20, 130, 60),
    99: (110, 190, 95),
}
"""Dark to light green: the complement of eosin, told apart by lightness alone."""

QUERY_COLOUR = (0, 213, 255)
"""Of the patches a map is about: neither in H&E nor in the colour maps."""


def fewest_cells(
    values: NDArray[np.floating], percents: Sequence[int] = PERCENTS
) -> dict[int, NDArray[np.bool_]]:
    """Return the fewest cells that hold each share of the sum of a map.

    The highest cells are taken until the share is reached; of equal cells the first in raster
    order. A map without mass has no such cells. A larger share holds all cells of a smaller one.

    Parameters
    ----------
    values
        ``(rows, cols)``, at least 0; NaN does not count.
    percents
        Shares in percent.

    Returns
    -------
    By percentage, ``(rows, cols)`` bool.
    """
    mass = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0).ravel()
    order = np.argsort(-mass, kind="stable")
    gathered = np.cumsum(mass[order])
    total = gathered[-1] if len(gathered) else 0.0
    found = {}
    for percent in percents:
        chosen = np.zeros(mass.shape, dtype=bool)
        if total > 0:
            enough = int(np.searchsorted(gathered, total * percent / 100 * (1 - 1e-12)))
            chosen[order[: enough + 1]] = True
        found[percent] = chosen.reshape(np.shape(values))
    return found


def border(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the border of a set of cells as straight lines, as long as they go.

    Returns
    -------
    ``(lines, 2, 2)``: both ends of each as ``(row, col)`` of corners of cells; the corner of
    cell (0, 0) is (0, 0), so that cell (r, c) reaches from (r, c) to (r + 1, c + 1).
    """
    padded = np.pad(np.asarray(inside, dtype=bool), 1)
    lines = []
    for axis in (0, 1):
        steps = np.diff(padded.astype(np.int8), axis=axis)  # a line lies where a cell is entered
        steps = steps[:, 1:-1] if axis == 0 else steps[1:-1].T
        # the first axis now counts the lattice's lines, the second goes along them
        before = np.pad(steps, ((0, 0), (1, 0)))[:, :-1]
        after = np.pad(steps, ((0, 0), (0, 1)))[:, 1:]
        at, start = np.nonzero((steps != 0) & (steps != before))
        _, end = np.nonzero((steps != 0) & (steps != after))
        first, last = np.column_stack([at, start]), np.column_stack([at, end + 1])
        if axis == 1:
            first, last = first[:, ::-1], last[:, ::-1]
        lines.append(np.stack([first, last], axis=1))
    return np.concatenate(lines).astype(np.float64)
