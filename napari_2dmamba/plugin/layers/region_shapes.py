"""Polygons as napari shapes, and back."""

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon, box
from shapely.validation import make_valid

_ELLIPSE_CORNERS = 64


def to_polygons(corners: NDArray[np.floating], kind: str) -> list[Polygon]:
    """Return the areas of one napari shape in level-0 pixels; lines have none.

    napari's whole numbers are pixel centres, ours are pixel corners: half a pixel is added.
    """
    points = np.asarray(corners, dtype=np.float64)[:, ::-1] + 0.5
    if kind == "ellipse":  # given by the corners of its box
        centre = points.mean(axis=0)
        angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
        half_x, half_y = (points[1] - points[0]) / 2, (points[3] - points[0]) / 2
        points = centre + np.cos(angle) * half_x + np.sin(angle) * half_y
    if kind == "line" or len(points) < 3:
        return []
    shape = make_valid(Polygon(points))
    return [part for part in getattr(shape, "geoms", [shape]) if part.geom_type == "Polygon"]


def to_shape(polygon: Polygon) -> NDArray[np.float64]:
    """Return the outline of a polygon as napari corners: the inverse of `to_polygons`."""
    return np.asarray(polygon.exterior.coords)[:-1, 1::-1] - 0.5


def without_holes(polygon: Polygon) -> list[Polygon]:
    """Cut a polygon through its holes, since a napari shape has none."""
    if not polygon.interiors:
        return [polygon]
    left, bottom, right, top = polygon.bounds
    cut = polygon.interiors[0].centroid.x
    halves = [
        polygon.intersection(box(left, bottom, cut, top)),
        polygon.intersection(box(cut, bottom, right, top)),
    ]
    parts = [part for half in halves for part in getattr(half, "geoms", [half])]
    return [piece for part in parts if part.geom_type == "Polygon" for piece in without_holes(part)]
