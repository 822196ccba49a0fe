"""A map above a threshold, as regions that can be drawn, edited and measured."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from napari_2dmamba.errors import GridError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.slide.regions import Region, Regions

_IN_MM2, _IN_PIXELS = "Area mm²", "Area level-0 px"


@dataclass(frozen=True)
class MapThreshold:
    """Where a map is cut: above a value, or above a percentile of its patches.

    Attributes
    ----------
    at
        The value, or 0 to 100.
    is_percentile
        Which of the two it is.
    """

    at: float
    is_percentile: bool = False

    @classmethod
    def parse(cls, text: str) -> "MapThreshold":
        """Read ``"0.9"`` as a value and ``"90%"`` as a percentile.

        Raises
        ------
        ValueError
            When it is neither.
        """
        given = text.strip()
        number = float(given.removesuffix("%"))
        is_percentile = given.endswith("%")
        if not np.isfinite(number) or (is_percentile and not 0 <= number <= 100):
            raise ValueError(f"{text!r} is neither a value nor a percentile such as 90%")
        return cls(number, is_percentile)

    def value_on(self, grid_map: GridMap) -> float:
        """Return the value of the map that the threshold stands for."""
        if not self.is_percentile:
            return self.at
        finite = grid_map.values[np.isfinite(grid_map.values)]
        if not finite.size:
            raise GridError(f"the map {grid_map.name} has no values; choose another map")
        return float(np.percentile(finite.astype(np.float64), self.at))


def patches_above(
    grid_map: GridMap, threshold: MapThreshold | float, *, least_patches: int = 1
) -> NDArray[np.int32]:
    """Number what of a map lies above a threshold: ``(rows, cols)``, 0 for what does not.

    Patches that share a side have one number.

    Parameters
    ----------
    threshold
        A value of the map, or a `MapThreshold`; a patch counts when its value is greater.
    least_patches
        Smaller areas are left out.

    Raises
    ------
    GridError
        When nothing of the map lies above the threshold.
    """
    if not isinstance(threshold, MapThreshold):
        threshold = MapThreshold(float(threshold))
    value = threshold.value_on(grid_map)
    above = grid_map.values > value  # False where there is no value
    labels, _ = scipy.ndimage.label(above)  # patches that share a side
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    labels[counts[labels] < max(1, least_patches)] = 0
    if not labels.any():
        raise GridError(
            f"no patch of the map {grid_map.name} lies above {value:.6g} (the highest is "
            f"{_highest(grid_map)}); choose a lower threshold"
        )
    return labels


def regions_above(
    grid_map: GridMap,
    threshold: MapThreshold | float,
    *,
    class_name: str = "",
    colour: tuple[int, int, int] | None = None,
    dimensions: tuple[int, int] | None = None,
    least_patches: int = 1,
) -> Regions:
    """Return what of a map lies above a threshold, one region for all patches that share sides.

    Patches that touch at a corner only are two regions; what lies in a region below the threshold
    is a hole in it. The properties hold QuPath measurements: area (mm², or level-0 pixels on a
    slide without µm per pixel), number of patches, and mean and highest value.

    Parameters
    ----------
    threshold, least_patches
        See `patches_above`.
    class_name
        Class of the regions; the name of the map when empty.
    colour
        Of the class.
    dimensions
        ``(width, height)`` of the slide: patches that reach beyond it are cut there.

    Raises
    ------
    GridError
        When nothing of the map lies above the threshold.
    """
    import shapely

    labels = patches_above(grid_map, threshold, least_patches=least_patches)
    rows, cols = np.nonzero(labels)
    owner = labels[rows, cols]
    order = np.argsort(owner, kind="stable")
    rows, cols, owner = rows[order], cols[order], owner[order]
    size = grid_map.patch_size_level0
    left, top = grid_map.origin[0] + cols * size, grid_map.origin[1] + rows * size
    right, bottom = left + size, top + size
    if dimensions is not None:
        right, bottom = np.minimum(right, dimensions[0]), np.minimum(bottom, dimensions[1])
    squares = shapely.box(left, top, right, bottom)
    starts = np.flatnonzero(np.diff(owner, prepend=0))
    regions = []
    for start, end in zip(starts, [*starts[1:], len(owner)], strict=True):
        part = slice(start, end)
        shape = shapely.coverage_union_all(squares[part])
        shape = shapely.simplify(shape, 0)  # corners between patches in one line
        values = grid_map.values[rows[part], cols[part]].astype(np.float64)
        regions.append(_region(grid_map, shape, values, class_name or grid_map.name, colour))
    return Regions(tuple(regions))


def measured_with(region: Region, mpp: float | None) -> Region:
    """Return a region whose area, where it was measured, is that with these µm per pixel."""
    told = region.properties.get("measurements")
    if not isinstance(told, dict) or not {_IN_MM2, _IN_PIXELS} & told.keys():
        return region
    rest = {name: value for name, value in told.items() if name not in (_IN_MM2, _IN_PIXELS)}
    measurements = _area(region.geometry, mpp) | rest
    return replace(region, properties={**region.properties, "measurements": measurements})


def _area(shape: Any, mpp: float | None) -> dict[str, float]:
    area = float(shape.area)
    return {_IN_PIXELS: area} if mpp is None else {_IN_MM2: area * mpp**2 / 1e6}


def _highest(grid_map: GridMap) -> str:
    finite = grid_map.values[np.isfinite(grid_map.values)]
    return f"{finite.max():.6g}" if finite.size else "none"


def _region(
    grid_map: GridMap,
    shape: Any,
    values: np.ndarray,
    class_name: str,
    colour: tuple[int, int, int] | None,
) -> Region:
    measurements = _area(shape, grid_map.mpp)
    measurements["Patches"] = float(len(values))
    measurements[f"{grid_map.name}: mean"] = float(values.mean())
    measurements[f"{grid_map.name}: highest"] = float(values.max())
    return Region(
        shape,
        "include",
        "",
        class_name,
        colour,
        "",
        {"isLocked": False, "measurements": measurements},
    )
