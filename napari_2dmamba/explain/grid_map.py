"""A map over the patch grid: one value per patch, placed on the slide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import GridError
from napari_2dmamba.slide.grid import cells_of as grid_cells_of
from napari_2dmamba.slide.grid import check_cells

ATTENTION = "attention"
"""Name of the map of the scores that a model gives its patches itself."""


@dataclass(frozen=True)
class GridMap:
    """An ``(rows, cols)`` map, one pixel per patch, NaN where there is no tissue.

    Attributes
    ----------
    values
        ``(rows, cols)`` float32.
    name
        Short name, used for the layer and for files.
    meaning
        One sentence: the question the map answers, with its unit.
    patch_size_level0
        Side of a cell in level-0 pixels.
    origin
        Level-0 ``(x, y)`` of the top left corner of cell (0, 0).
    mpp
        µm per level-0 pixel; None places the map in pixels.
    signed
        True for maps around zero, shown with a diverging colour map.
    display_range
        ``(low, high)`` to show; None for the range of the values.
    quantity
        What the values are, with their unit: maps of one quantity can be compared and shown on
        one scale. Empty where nothing else is of the kind.
    queries
        Level-0 ``(x, y)`` of the top left corners of the cells that show the patches which the
        map is about; none for maps of the slide.
    """

    values: NDArray[np.float32]
    name: str
    meaning: str
    patch_size_level0: int
    origin: tuple[int, int] = (0, 0)
    mpp: float | None = None
    signed: bool = False
    display_range: tuple[float, float] | None = None
    quantity: str = ""
    queries: tuple[tuple[int, int], ...] = ()

    @property
    def pixel_size(self) -> float:
        """Side of a cell in world units: µm, or level-0 pixels without mpp."""
        return self.patch_size_level0 * (self.mpp or 1.0)

    @property
    def scale(self) -> tuple[float, float]:
        """World units per map pixel, ``(y, x)``."""
        return self.pixel_size, self.pixel_size

    def cells_of(self, coords: NDArray[np.int64], patch_size_level0: int) -> NDArray[np.int64]:
        """Return ``(N, 2)`` cells ``(row, col)`` that show patches, which may lie off the map.

        They are the cells that `scatter` and the canvas of a model put them in. Where every patch
        has a cell of its own although patches overlap, cells are smaller, in the middle of their
        patches. ``coords`` are level-0 ``(x, y)`` of the patches' top left corners.
        """
        inset = (patch_size_level0 - self.patch_size_level0) // 2
        corners = np.asarray(coords, np.int64) + inset - self.origin
        return grid_cells_of(corners, self.patch_size_level0)

    @property
    def translate(self) -> tuple[float, float]:
        """World ``(y, x)`` of the centre of cell (0, 0).

        A viewer that puts pixel centres on whole numbers shows level-0 pixel 0 from -0.5 to
        0.5; a cell of p pixels that starts there has its centre at (p - 1) / 2.
        """
        unit = self.mpp or 1.0
        half = (self.patch_size_level0 - 1) / 2
        return (self.origin[1] + half) * unit, (self.origin[0] + half) * unit


def scatter(
    scores: NDArray[np.floating],
    coords: NDArray[np.int64],
    patch_size_level0: int,
    *,
    name: str,
    meaning: str,
    mpp: float | None,
    signed: bool = False,
    display_range: tuple[float, float] | None = None,
    shared_cells: str = "refuse",
    corner: tuple[int, int] | None = None,
) -> GridMap:
    """Place one score per patch on the smallest grid that holds all patches.

    The grid keeps the lattice the coordinates lie on: cells are ``patch_size_level0`` apart,
    starting from the smallest x and y, which need not be multiples of the patch size; or from
    ``corner``, the level-0 ``(x, y)`` of a corner of any cell.

    Raises
    ------
    GridError
        When two patches fall into one cell and ``shared_cells`` is ``"refuse"``; else the last
        of them is shown, or with ``"mean"`` their mean.
    """
    if len(scores) != len(coords):
        raise GridError(f"{len(scores)} scores were given for {len(coords)} patches")
    start = coords.min(axis=0) if corner is None else np.asarray(corner, np.int64)
    cells = grid_cells_of(coords - start, patch_size_level0)
    first = cells.min(axis=0)
    cells, low = cells - first, start + first[::-1] * patch_size_level0
    rows, cols = (int(v) + 1 for v in cells.max(axis=0))
    check_cells(cells if shared_cells == "refuse" else np.unique(cells, axis=0), (rows, cols))
    values = np.full((rows, cols), np.nan, dtype=np.float32)
    if shared_cells == "mean":
        at = cells[:, 0] * cols + cells[:, 1]
        counts = np.bincount(at, minlength=rows * cols)
        sums = np.bincount(at, np.asarray(scores, np.float64), minlength=rows * cols)
        held = counts > 0
        values.reshape(-1)[held] = sums[held] / counts[held]
        shared = len(cells) - int(held.sum())
        if shared:
            meaning += (
                f"; {shared} patches share a cell of the map with others: their mean is shown"
            )
    else:
        values[cells[:, 0], cells[:, 1]] = scores
    return GridMap(
        values=values,
        name=name,
        meaning=meaning,
        patch_size_level0=patch_size_level0,
        origin=(int(low[0]), int(low[1])),
        mpp=mpp,
        signed=signed,
        display_range=display_range,
    )
