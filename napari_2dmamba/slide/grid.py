"""The patch grid: which cells of a slide hold tissue, and where they lie."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import GridError, TissueError
from napari_2dmamba.settings import setting, validate

if TYPE_CHECKING:
    from napari_2dmamba.slide.slide import Slide
    from napari_2dmamba.slide.tissue import TissueMask


class TrainedOn(Protocol):
    """What a checkpoint says about its patches: side in pixels and µm per pixel, or None."""

    @property
    def patch_size(self) -> int | None: ...  # noqa: D102
    @property
    def mpp(self) -> float | None: ...  # noqa: D102


@dataclass(frozen=True)
class GridSettings:
    """How a slide is cut into patches."""

    patch_size: int = setting(
        512, "Side of a patch, in pixels at the target resolution.", unit="px", minimum=16
    )
    target_mpp: float = setting(
        0.5, "Resolution the patches are read at.", label="Resolution", unit="µm/px", minimum=0.05
    )
    min_tissue: float = setting(
        0.1,
        "Smallest share of a patch that must be tissue for the patch to count.",
        label="Least tissue",
        minimum=0.0,
        maximum=1.0,
    )

    def trained_for(self, model: TrainedOn, before: TrainedOn | None = None) -> Self:
        """Return these settings with the patches a model was trained on, where it states them.

        Parameters
        ----------
        before
            The model that was chosen until now. What was taken from it, and the other does not
            state, is the default again: no patches of one model are left over for another.
        """
        plain = type(self)()

        def kept(own: float, stated_before: float | None, default: float) -> float:
            return default if stated_before is not None and own == stated_before else own

        size, mpp = model.patch_size, model.mpp
        if size is None:
            was = None if before is None else before.patch_size
            size = int(kept(self.patch_size, was, plain.patch_size))
        if mpp is None:
            was_mpp = None if before is None else before.mpp
            mpp = kept(self.target_mpp, was_mpp, plain.target_mpp)
        return replace(self, patch_size=size, target_mpp=mpp)


@dataclass(frozen=True)
class PatchGrid:
    """Patches on a regular grid over level 0 of a slide.

    Cell ``(row, col)`` covers level-0 pixels ``x in [col * p, (col + 1) * p)`` and the same
    for rows, where ``p`` is `patch_size_level0`: the grid starts at the slide's own corner,
    as published 2DMamba models expect (position = coordinate // patch size, no offset).

    Attributes
    ----------
    patch_size
        Side of a patch as the encoder's input is cut, in pixels at `mpp`.
    patch_size_level0
        Side of a patch in level-0 pixels; an integer, so that cells tile level 0 exactly.
    mpp
        µm per pixel the patches are read at: ``patch_size_level0 * slide_mpp / patch_size``.
        None when the user works in pixels because the slide states no µm per pixel.
    slide_mpp
        µm per pixel of level 0, or None.
    canvas
        ``(rows, cols)`` that cover the slide.
    coords
        ``(N, 2)`` int64, level-0 ``(x, y)`` of each patch's top left corner, row by row.
    tissue_fraction
        ``(N,)`` float32, share of each patch that is tissue.
    """

    patch_size: int
    patch_size_level0: int
    mpp: float | None
    slide_mpp: float | None
    canvas: tuple[int, int]
    coords: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def cells(self) -> NDArray[np.int64]:
        """``(N, 2)`` int64 ``(row, col)`` of each patch."""
        return cells_of(self.coords, self.patch_size_level0)


def patch_size_on_level0(settings: GridSettings, slide_mpp: float | None) -> int:
    """Return the side of a patch in level-0 pixels, rounded to whole pixels.

    Without ``slide_mpp`` patches are ``settings.patch_size`` level-0 pixels wide.
    """
    if slide_mpp is None:
        return settings.patch_size
    return max(1, round(settings.patch_size * settings.target_mpp / slide_mpp))


def cells_of(coords: NDArray[np.int64], patch_size_level0: int) -> NDArray[np.int64]:
    """Return ``(N, 2)`` grid cells ``(row, col)`` of level-0 ``(x, y)`` corners."""
    return np.asarray(coords, dtype=np.int64)[:, ::-1] // patch_size_level0


def place_of(corner: tuple[int, int], patch_size_level0: int) -> tuple[int, int]:
    """Return ``(row, col)`` of a patch on the slide's own grid, as everything shown counts.

    Counted from the corner of level 0 to the patch's level-0 corner ``(x, y)``, never from the
    corner of a map or canvas, which is elsewhere on every slide.
    """
    row, col = cells_of(np.array([corner]), patch_size_level0)[0]
    return int(row), int(col)


def place_words(corner: tuple[int, int], patch_size_level0: int) -> str:
    """Return the place of a patch in words: the same ones wherever a patch is read."""
    row, col = place_of(corner, patch_size_level0)
    return f"x {corner[0]}, y {corner[1]} (level 0) · row {row}, column {col}"


def check_cells(cells: NDArray[np.int64], canvas: tuple[int, int]) -> None:
    """Refuse patches that share a cell or lie off the canvas.

    Raises
    ------
    GridError
        With the number of patches concerned and the first of them.
    """
    rows, cols = canvas
    row, col = cells[:, 0], cells[:, 1]
    off = (row < 0) | (col < 0) | (row >= rows) | (col >= cols)
    if off.any():
        first = tuple(int(v) for v in cells[np.flatnonzero(off)[0]])
        raise GridError(
            f"{int(off.sum())} of {len(cells)} patches lie off the canvas of {rows} x {cols} "
            f"cells (the first at row {first[0]}, column {first[1]}); choose the slide's own "
            "canvas, or check that patch size and resolution are those of the features"
        )
    # one number per cell, sorted: np.unique takes 0.1 s and more for 100,000 patches
    numbers = np.sort(row * cols + col)
    shared = int((numbers[1:] == numbers[:-1]).sum())
    if shared:
        raise GridError(
            f"{shared} of {len(cells)} patches fall into a cell that another patch already "
            "holds; check that the patch size is the one the coordinates were made with"
        )


def canvas_of_slide(dimensions: tuple[int, int], patch_size_level0: int) -> tuple[int, int]:
    """Return ``(rows, cols)`` covering a slide of ``(width, height)`` level-0 pixels."""
    width, height = dimensions
    return math.ceil(height / patch_size_level0), math.ceil(width / patch_size_level0)


def make_grid(
    slide: "Slide", tissue: "TissueMask", settings: GridSettings | None = None
) -> PatchGrid:
    """Lay the grid over a slide and keep the cells on tissue.

    A patch counts when its tissue is at least ``settings.min_tissue`` of the whole patch,
    measured exactly on the mask, and more than none. At the right and lower edge a patch may
    reach beyond the slide, where pixels are background: it counts when at least half of it
    lies on the slide.

    Raises
    ------
    TissueError
        When no patch holds enough tissue.
    GridError
        When the slide is too small for a single patch.
    """
    settings = settings or GridSettings()
    validate(settings)
    width, height = slide.dimensions
    side = patch_size_on_level0(settings, slide.mpp)
    rows, cols = canvas_of_slide(slide.dimensions, side)
    y = np.minimum(np.arange(rows + 1) * side, height)
    x = np.minimum(np.arange(cols + 1) * side, width)
    on_slide = np.outer(np.diff(y), np.diff(x)) / side**2
    if not (on_slide >= 0.5).any():
        raise GridError(
            f"{slide.name} is {width} x {height} pixels, less than half a patch of {side} x "
            f"{side}; choose smaller patches or a finer resolution"
        )
    # a patch's share of tissue: area on the mask, turned into level-0 pixels
    mask_pixel = (height / tissue.mask.shape[0]) * (width / tissue.mask.shape[1])
    fraction = _area(tissue.mask, y / height, x / width) * mask_pixel / side**2
    rounding = 1e-9  # of the summed areas, relative to a patch
    enough = np.maximum(settings.min_tissue - rounding, rounding)
    kept = (fraction >= enough) & (on_slide >= 0.5)
    if not kept.any():
        raise TissueError(
            f"no patch of {slide.name} holds {settings.min_tissue:.0%} tissue (the fullest "
            f"holds {fraction.max():.1%}); ask for less tissue or smaller patches"
        )
    cells = np.argwhere(kept)
    return PatchGrid(
        patch_size=settings.patch_size,
        patch_size_level0=side,
        mpp=None if slide.mpp is None else side * slide.mpp / settings.patch_size,
        slide_mpp=slide.mpp,
        canvas=(rows, cols),
        coords=cells[:, ::-1].astype(np.int64) * side,
        tissue_fraction=fraction[kept].astype(np.float32),
    )


def _area(
    mask: NDArray[np.bool_], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mask's area, in mask pixels, within each cell of a grid.

    The summed-area table of a mask of constant pixels is exact at whole pixels and linear
    between them along each axis, so interpolating it gives areas without sampling error.

    Parameters
    ----------
    y, x
        Edges of the cells as shares of the mask's height and width, from 0 to 1.
    """
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    table[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)
    for axis, edges in ((0, y * mask.shape[0]), (1, x * mask.shape[1])):
        low = np.minimum(edges.astype(np.int64), mask.shape[axis] - 1)
        part = edges - low
        part = part[:, np.newaxis] if axis == 0 else part
        below, above = np.take(table, low, axis), np.take(table, low + 1, axis)
        table = below * (1 - part) + above * part
    return np.diff(np.diff(table, axis=0), axis=1)
