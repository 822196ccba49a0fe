"""The lattice that patches lie on: how far apart they are, and what becomes of those that overlap.

Models that read a grid want one patch per cell. Where patches overlap, the cells can be as wide
as a patch, and then several patches share one (the last counts, or their mean), or as wide as the
step from patch to patch, and then every patch has its own.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import GridError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.slide.grid import cells_of

_WIDEST_ROUNDING = 1


def step_of(coords: NDArray[np.int64]) -> int | None:
    """Return how far neighbouring patches lie apart, in level-0 pixels; None where none have any.

    It is the most frequent distance between neighbours of one row or one column, so that
    lattices which begin anew for every piece of tissue, as CLAM's do, have their step too.
    """
    distances = []
    for along, across in ((0, 1), (1, 0)):
        order = np.lexsort((coords[:, along], coords[:, across]))
        sorted_ = coords[order]
        gaps = np.diff(sorted_[:, along])
        same_line = np.diff(sorted_[:, across]) == 0
        distances.append(gaps[same_line & (gaps > 0)])
    values, counts = np.unique(np.concatenate(distances), return_counts=True)
    if not len(values):
        return None
    return int(values[np.argmax(counts)])


def overlap_of(coords: NDArray[np.int64], side: int) -> int:
    """Return by how many level-0 pixels neighbouring patches overlap; 0 where they do not."""
    step = step_of(coords)
    if step is None or step >= side - _WIDEST_ROUNDING:
        return 0
    return side - step


def overlap_in_words(bag: FeatureBag) -> str | None:
    """Say that patches overlap, and by how much; None where they do not."""
    overlap = overlap_of(bag.coords, bag.patch_size_level0)
    if not overlap:
        return None
    return (
        f"the patches overlap: they are {bag.patch_size_level0} px wide on level 0 and lie "
        f"{bag.patch_size_level0 - overlap} px apart"
    )


def laid_out(
    bag: FeatureBag, *, uses_grid: bool, shared_cells: str
) -> tuple[FeatureBag, tuple[str, ...]]:
    """Give patches that overlap their places on a grid, and say in sentences what was done.

    Parameters
    ----------
    bag
        Any; one whose patches do not overlap comes back as it is.
    uses_grid
        Whether the model reads positions; others take every patch as it is.
    shared_cells
        `ModelSettings.shared_cells`.

    Raises
    ------
    GridError
        Where the model reads a grid and ``shared_cells`` is ``"refuse"``.
    """
    if bag.cell_size_level0 is not None:
        return bag, ()
    words = overlap_in_words(bag)
    if shared_cells == "mean" and uses_grid:
        merged, among = _mean_of_cells(bag)
        if among == len(merged):
            return bag, () if words is None else (words,)
        return merged, (
            f"{among} patches stand in {len(merged)} cells of {bag.cell_size} px: each cell holds "
            "the mean of the features of its patches",
        )
    if words is None:
        return bag, ()
    step = bag.patch_size_level0 - overlap_of(bag.coords, bag.patch_size_level0)
    if not uses_grid or shared_cells == "finer":
        what = "the model sees every patch" if not uses_grid else "each patch has a cell of its own"
        return dataclasses.replace(bag, cell_size_level0=step), (
            f"{words}; {what}, and maps show each by its middle {step} px",
        )
    if shared_cells == "refuse":
        raise GridError(
            f"{words}, and this model reads a grid with one patch per cell; choose what a cell "
            "holds (--shared-cells): the last of its patches, their mean, or one patch in each "
            f"cell of a finer grid of {step} px"
        )
    return bag, (f"{words}; of the patches in one cell the last counts",)


def _mean_of_cells(bag: FeatureBag) -> tuple[FeatureBag, int]:
    """Return a bag with one patch per cell, and how many patches went into it."""
    low = bag.coords.min(axis=0)
    cells = cells_of(bag.coords - low, bag.cell_size)
    found, of_patch, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    if len(found) == len(bag):
        return bag, len(bag)
    order = np.argsort(of_patch.reshape(-1), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sums = np.add.reduceat(bag.features[order].astype(np.float64), starts)
    corners = low + found[:, ::-1] * bag.cell_size
    merged = dataclasses.replace(
        bag,
        features=(sums / counts[:, np.newaxis]).astype(np.float32),
        coords=corners.astype(np.int64),
        source={**bag.source, "merged_patches": len(bag)},
    )
    return merged, len(bag)
