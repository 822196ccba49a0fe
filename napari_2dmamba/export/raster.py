"""Slide and map on one pixel raster, tile by tile: what pictures and pyramids are made of."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import (
    DisplaySettings,
    DisplayTransform,
    colour_indices,
    map_colours,
    percentiles,
)
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.mass import LINE_COLOURS, PERCENTS, QUERY_COLOUR, fewest_cells

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

Scalar = TypeVar("Scalar", bound=np.generic)

Box = tuple[int, int, int, int]
"""``(left, top, right, bottom)`` in pixels of a raster."""


@dataclass(frozen=True)
class Raster:
    """A region of level 0 cut into ``width x height`` equal pixels, edge on edge.

    Attributes
    ----------
    region
        ``(x, y, width, height)`` in level-0 pixels.
    width, height
        Of the raster, in its own pixels.
    slide_mpp
        µm per level-0 pixel, or None.
    """

    region: tuple[int, int, int, int]
    width: int
    height: int
    slide_mpp: float | None

    @property
    def step(self) -> tuple[float, float]:
        """Level-0 pixels per raster pixel, ``(x, y)``."""
        return self.region[2] / self.width, self.region[3] / self.height

    @property
    def pixel_size(self) -> float:
        """Width of a raster pixel in µm, or in level-0 pixels without µm per pixel."""
        return self.step[0] * (self.slide_mpp or 1.0)

    def centres(self, box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return level-0 x and y of the centres of the columns and rows of a box.

        Level-0 pixel i covers ``[i, i + 1)``, so that cell edges lie on whole numbers.
        """
        left, top, right, bottom = box
        x = self.region[0] + np.arange(left + 0.5, right) * self.step[0]
        y = self.region[1] + np.arange(top + 0.5, bottom) * self.step[1]
        return x, y

    def coarser(self, factor: int) -> "Raster":
        """Return the same region with pixels ``factor`` times as wide."""
        width, height = (max(1, round(n / factor)) for n in (self.width, self.height))
        return Raster(self.region, width, height, self.slide_mpp)


def raster_at(
    slide: "Slide",
    mpp: float | None,
    region: tuple[int, int, int, int] | None = None,
    *,
    longest_side: int = 2400,
    most_pixels: float = math.inf,
) -> Raster:
    """Return the raster of a region (of the whole slide when None) at a resolution.

    Parameters
    ----------
    slide
        The slide.
    mpp
        µm per pixel, or level-0 pixels per pixel on a slide that states no µm per pixel.
        None makes the longest side ``longest_side`` pixels, but never enlarges.
    region
        ``(x, y, width, height)`` in level-0 pixels.
    longest_side
        See ``mpp``.
    most_pixels
        Larger rasters are refused.

    Raises
    ------
    ExportError
        When the region is empty, or the raster larger than ``most_pixels``.
    """
    unit = slide.mpp or 1.0
    x, y, width, height = region or (0, 0, *slide.dimensions)
    if width < 1 or height < 1:
        raise ExportError(
            f"a region of {width} x {height} level-0 pixels is empty; draw a larger one"
        )
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise ExportError(f"{mpp} µm per pixel is no resolution; give a number above 0, like 4")
    step = max(1.0, max(width, height) / longest_side) if mpp is None else mpp / unit
    columns, rows = max(1, round(width / step)), max(1, round(height / step))
    if columns * rows > most_pixels:
        needed = step * unit * math.sqrt(columns * rows / most_pixels)
        # rounded up to two digits, so that the proposal passes
        digit = 10.0 ** (math.floor(math.log10(needed)) - 1)
        named = "µm per pixel" if slide.mpp else "level-0 pixels per pixel"
        raise ExportError(
            f"the picture would have {columns} x {rows} pixels, more than the "
            f"{most_pixels / 1e6:,.0f} million that are written; choose "
            f"{math.ceil(needed / digit) * digit:g} {named} or more, or a smaller region"
        )
    return Raster((x, y, width, height), columns, rows, slide.mpp)


class SlidePainter:
    """Reads boxes of a raster from the slide: white outside, averaged over each pixel."""

    def __init__(self, slide: "Slide", raster: Raster) -> None:
        if not slide.rgb:
            raise ExportError(
                f"{slide.name} has channels in place of natural colours; export the view, or "
                "the map alone"
            )
        self.raster = raster
        fine_enough = [
            level for level in slide.pyramid() if level.downsample <= min(raster.step) * 1.001
        ]
        self._level = fine_enough[-1] if fine_enough else slide.pyramid()[0]

    def __call__(self, box: Box) -> NDArray[np.uint8]:
        """Return the ``(h, w, 3)`` uint8 pixels of a box of the raster."""
        left, top, right, bottom = box
        rows, cols = self._level.shape[:2]
        # the box on the level, in fractions of its pixels
        (region_x, region_y, *_), step = self.raster.region, self.raster.step
        shrink = self._level.downsample
        x = [(region_x + edge * step[0]) / shrink for edge in (left, right)]
        y = [(region_y + edge * step[1]) / shrink for edge in (top, bottom)]
        x0, y0 = math.floor(x[0]), math.floor(y[0])
        x1, y1 = max(math.ceil(x[1]), x0 + 1), max(math.ceil(y[1]), y0 + 1)
        source = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
        inside = (max(x0, 0), max(y0, 0), min(x1, cols), min(y1, rows))
        if inside[0] < inside[2] and inside[1] < inside[3]:
            pixels = np.asarray(self._level[inside[1] : inside[3], inside[0] : inside[2]])
            target = source[inside[1] - y0 : inside[3] - y0, inside[0] - x0 : inside[2] - x0]
            target[...] = pixels
        picture = Image.fromarray(source).resize(
            (right - left, bottom - top),
            Image.Resampling.BOX,
            box=(x[0] - x0, y[0] - y0, min(x[1] - x0, x1 - x0), min(y[1] - y0, y1 - y0)),
        )
        return np.asarray(picture)


class MapPainter:
    """Samples a map on a raster: every pixel has the value of the cell its centre lies in."""

    def __init__(self, grid_map: GridMap, raster: Raster) -> None:
        self.grid_map = grid_map
        self.raster = raster

    def cells(self, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the map's row per pixel row and column per pixel column; -1 off the map."""
        found = []
        axes = zip(
            self.raster.centres(box),
            self.grid_map.origin,
            self.grid_map.values.shape[::-1],
            strict=True,
        )
        for centres, origin, count in axes:
            index = np.floor((centres - origin) / self.grid_map.patch_size_level0).astype(np.int64)
            found.append(np.where((index >= 0) & (index < count), index, -1))
        return found[1], found[0]

    def __call__(self, box: Box) -> NDArray[np.float32]:
        """Return the ``(h, w)`` raw values of a box; NaN where the map has none."""
        return self.sample(self.grid_map.values, box, np.float32(np.nan))

    def sample(self, per_cell: NDArray[Scalar], box: Box, outside: Scalar) -> NDArray[Scalar]:
        """Return what an array over the map's cells holds for every pixel of a box."""
        rows, cols = self.cells(box)
        pixels = per_cell[rows][:, cols]
        pixels[rows < 0] = outside
        pixels[:, cols < 0] = outside
        return pixels


class OverlayPainter:
    """The coloured map over the slide (or over white without one).

    Parameters
    ----------
    slide, grid_map, display
        What is drawn, and how.
    raster
        Where.
    contour
        Percentile: patches at or above it are outlined. None draws no line.
    lines
        Whether maps of a patch outline it, and the fewest patches that hold 50, 90 and 99 %.
    line_width
        Of outlines, in raster pixels.
    """

    def __init__(
        self,
        slide: "Slide | None",
        grid_map: GridMap,
        display: DisplaySettings,
        raster: Raster,
        *,
        contour: float | None = None,
        lines: bool = False,
        line_width: int = 2,
    ) -> None:
        self.raster = raster
        self._slide: Callable[[Box], NDArray[np.uint8]] | None = (
            None if slide is None else SlidePainter(slide, raster)
        )
        self._map = MapPainter(grid_map, raster)
        positions = DisplayTransform(grid_map, display)(grid_map.values)
        self._indices = colour_indices(positions)
        colours = map_colours(grid_map, display)
        self._table = 255 * colours[:, :3]
        covers = display.opacity * colours[self._indices, 3]
        self._alpha = np.where(np.isnan(positions), np.float32(0), covers).astype(np.float32)
        self._line_width = max(1, line_width)
        self._outlined: list[tuple[NDArray[np.bool_], tuple[int, int, int]]] = []
        if contour is not None:
            ranked = percentiles(grid_map.values)
            self._outlined.append((np.nan_to_num(ranked, nan=-1.0) >= contour, (0, 0, 0)))
        if lines:
            self._outlined += _lines_of(grid_map)

    def __call__(self, box: Box) -> NDArray[np.uint8]:
        """Return the ``(h, w, 3)`` uint8 pixels of a box of the raster."""
        left, top, right, bottom = box
        if self._slide is None:
            pixels = np.full((bottom - top, right - left, 3), 255, dtype=np.uint8)
        else:
            pixels = self._slide(box)
        alpha = self._map.sample(self._alpha, box, np.float32(0))[..., None]
        if alpha.any():
            colours = self._table[self._map.sample(self._indices, box, np.uint8(0))]
            pixels = np.rint(pixels + alpha * (colours - pixels)).astype(np.uint8)
        for outlined, colour in self._outlined:
            pixels = np.where(
                self._rim(outlined, box)[..., None], np.array(colour, np.uint8), pixels
            )
        return pixels

    def _rim(self, outlined: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
        """Return the inner rim of the outlined patches."""
        from scipy.ndimage import minimum_filter

        width = self._line_width
        left, top, right, bottom = box
        wider = (left - width, top - width, right + width, bottom + width)
        inside = self._map.sample(outlined, wider, np.False_)
        rim = inside & ~minimum_filter(inside, size=2 * width + 1, mode="nearest")
        return rim[width:-width, width:-width]


def _lines_of(grid_map: GridMap) -> list[tuple[NDArray[np.bool_], tuple[int, int, int]]]:
    """Return what is outlined on a map of a patch, the uppermost last."""
    if not grid_map.queries:
        return []
    found = []
    if not grid_map.signed:
        held = fewest_cells(grid_map.values)
        found = [(held[percent], LINE_COLOURS[percent]) for percent in reversed(PERCENTS)]
    at = np.zeros(grid_map.values.shape, dtype=bool)
    for corner in grid_map.queries:
        col, row = (np.array(corner) - grid_map.origin) // grid_map.patch_size_level0
        at[row : row + 1, col : col + 1] = True  # a pad cell may lie off the map
    return [*found, (at, QUERY_COLOUR)]
