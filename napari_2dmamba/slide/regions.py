"""Regions to include in an analysis or exclude from it, and notes, as drawn or saved by QuPath."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from shapely import LineString, MultiPolygon, Point, Polygon

CHECKED_CORNERS = 20_000
"""Corners up to which outlines are made valid when they are read; the time of the check may grow
with their square."""

Role = Literal["include", "exclude", "note"]
"""What a region does to an analysis; a note does nothing, it is only kept and shown."""

_CROSSINGS_AT_ONCE = 4_000_000
"""Crossings of edges and rows of pixels that are held in memory at a time (32 bytes each)."""


@dataclass(frozen=True, slots=True)
class Region:
    """An area of a slide; a note may be a line or a point as well.

    Attributes
    ----------
    geometry
        Polygon, or several that belong together, in level-0 pixels; may have holes. Valid, but
        for outlines of more than `CHECKED_CORNERS` corners.
    role
        ``"include"``, ``"exclude"`` or ``"note"``.
    name
        What somebody called it.
    classification
        Class, such as ``"Tumor"``; empty for none.
    colour
        ``(red, green, blue)`` of the class, 0 to 255.
    id
        Identifier that QuPath gave it.
    properties
        What else a file said of it, such as measurements; written again as it was.
    """

    geometry: "Polygon | MultiPolygon | LineString | Point"
    role: Role = "include"
    name: str = ""
    classification: str = ""
    colour: tuple[int, int, int] | None = None
    id: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def polygons(self) -> tuple["Polygon", ...]:
        """The polygons of the area, one or more; a line or a point has none."""
        parts = getattr(self.geometry, "geoms", (self.geometry,))
        return tuple(part for part in parts if part.geom_type == "Polygon")


@dataclass(frozen=True)
class Regions:
    """The regions of a slide, in the order they were drawn or read.

    Attributes
    ----------
    regions
        Of all roles. With regions to include, only what lies in one of them counts; nothing in
        a region to exclude does; notes change nothing.
    """

    regions: tuple[Region, ...] = ()

    @classmethod
    def of(cls, include: Iterable["Polygon"] = (), exclude: Iterable["Polygon"] = ()) -> "Regions":
        """Return regions without names from bare polygons in level-0 pixels."""
        return cls(
            tuple(Region(polygon) for polygon in include)
            + tuple(Region(polygon, "exclude") for polygon in exclude)
        )

    def __bool__(self) -> bool:
        return bool(self.regions)

    def __len__(self) -> int:
        return len(self.regions)

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions)

    @property
    def include(self) -> tuple["Polygon", ...]:
        """The polygons to include; empty for the whole slide."""
        return self._of_role("include")

    @property
    def exclude(self) -> tuple["Polygon", ...]:
        """The polygons to exclude."""
        return self._of_role("exclude")

    def _of_role(self, role: Role) -> tuple["Polygon", ...]:
        return tuple(part for one in self.regions if one.role == role for part in one.polygons)

    def rasterize(self, shape: tuple[int, int], dimensions: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of a picture of the whole slide count: those whose centre does.

        Parameters
        ----------
        shape
            ``(h, w)`` of the picture.
        dimensions
            ``(width, height)`` of the slide in level-0 pixels.
        """
        scale = shape[1] / dimensions[0], shape[0] / dimensions[1]
        include, exclude = self.include, self.exclude
        counts = _fill(include, shape, scale) if include else np.ones(shape, bool)
        return counts & ~_fill(exclude, shape, scale) if exclude else counts

    def content_hash(self) -> str:
        """Return a SHA-256 of what the regions cover and exclude, whatever they are called."""
        import shapely

        digest = hashlib.sha256()
        for one in self.regions:
            if one.role == "note":
                continue
            digest.update(one.role.encode())
            digest.update(shapely.to_wkb(shapely.normalize(one.geometry), byte_order=1))
        return digest.hexdigest()


def _fill(
    polygons: Sequence["Polygon"], shape: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.bool_]:
    """Mark pixels whose centre lies in a polygon and not in its holes.

    The outlines of all polygons are drawn in one pass: turning in one direction, their winding
    numbers add up to the number of polygons over a pixel. Outlines of very many corners, whose
    validity nobody checked (see `CHECKED_CORNERS`), are drawn by themselves, for where they cross
    themselves their winding number may be of any sign.
    """
    import shapely

    every = np.empty(len(polygons), dtype=object)
    every[:] = polygons
    is_long = shapely.get_num_coordinates(every) > CHECKED_CORNERS
    filled = _winding(every[~is_long], shape, scale) > 0
    for polygon in every[is_long]:
        inside = _winding(np.array([shapely.Polygon(polygon.exterior)]), shape, scale) != 0
        for hole in polygon.interiors:
            inside &= _winding(np.array([shapely.Polygon(hole)]), shape, scale) == 0
        filled |= inside
    return filled


def _winding(
    polygons: NDArray[np.object_], shape: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.int32]:
    """Return how often outlines less holes go around the centre of each pixel.

    Every edge that crosses the middle of a row of pixels adds 1 or -1, by its direction, to all
    pixels on its right.
    """
    height, width = shape
    change = np.zeros(height * (width + 1), dtype=np.int32)
    if not len(polygons):
        return change.reshape(height, width + 1)[:, :width]
    start, end, sign = _edges(polygons)
    start, end = start * scale, end * scale
    upwards = start[:, 1] > end[:, 1]
    sign = np.where(upwards, -sign, sign)
    top, bottom = np.where(upwards, end.T, start.T), np.where(upwards, start.T, end.T)
    # centres of rows are at r + 0.5; an edge owns the row at its top, not that at its bottom
    first = np.clip(np.ceil(top[1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(bottom[1] - 0.5), 0, height).astype(np.int64)
    crossing = last > first
    first, last, sign = first[crossing], last[crossing], sign[crossing]
    top, bottom = top[:, crossing], bottom[:, crossing]
    slope = (bottom[0] - top[0]) / (bottom[1] - top[1])
    begin = top[0] + (first + 0.5 - top[1]) * slope - 0.5  # x of the first crossing, as a column
    for part in _in_parts(last - first):
        count = (last - first)[part]
        edge = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(edge)) - (np.cumsum(count) - count)[edge]
        column = np.ceil(begin[part][edge] + within * slope[part][edge])
        np.clip(column, 0, width, out=column)
        place = (within + first[part][edge]) * (width + 1) + column.astype(np.int64)
        np.add.at(change, place, sign[part][edge])
    return change.reshape(height, width + 1).cumsum(axis=1, dtype=np.int32)[:, :width]


def _in_parts(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Yield slices of edges that have about `_CROSSINGS_AT_ONCE` crossings each."""
    total = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = total[begin - 1] if begin else 0
        end = int(np.searchsorted(total, done + _CROSSINGS_AT_ONCE, side="right"))
        end = max(end, begin + 1)
        yield slice(begin, end)
        begin = end


def _edges(
    polygons: NDArray[np.object_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
    """Return both ends of every edge, ``(E, 2)``, and a sign that makes holes count against."""
    import shapely

    rings, of_polygon = shapely.get_rings(polygons, return_index=True)
    points, of_ring = shapely.get_coordinates(rings, return_index=True)
    follows = of_ring[1:] == of_ring[:-1]
    start, end, ring = points[:-1][follows], points[1:][follows], of_ring[:-1][follows]
    # twice the signed area: about the ring's first corner, for sums of large numbers lose digits
    origin = points[np.searchsorted(of_ring, np.arange(len(rings)))][ring]
    a, b = start - origin, end - origin
    area = np.bincount(ring, a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1], minlength=len(rings))
    is_hole = np.concatenate([[False], of_polygon[1:] == of_polygon[:-1]])
    turns = np.where((area >= 0) == is_hole, 1, -1).astype(np.int32)
    return start, end, turns[ring]
