"""Regions of interest as shapes layers, one to include and one to exclude."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray
from shapely import Polygon, box
from shapely.validation import make_valid

from napari_2dmamba.plugin.slide_layer import SLIDE_KEY, placement
from napari_2dmamba.slide import Regions

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import Slide

Role = Literal["include", "exclude"]
ROLES: tuple[Role, Role] = ("include", "exclude")

REGION_KEY = "2dmamba region"
"""``layer.metadata`` holds the role of a region layer under this name."""

_NAMES = {"include": "Regions to include", "exclude": "Regions to exclude"}
_COLOURS = {"include": "#00a050", "exclude": "#d03020"}
_EDGE_SCREEN_SHARE = 400  # an edge this part of the slide's side is visible at first sight
_ELLIPSE_CORNERS = 64


def region_layer(viewer: "Viewer", role: Role) -> Shapes | None:
    """Return the layer of one role, or None while there is none."""
    for layer in viewer.layers:
        if isinstance(layer, Shapes) and layer.metadata.get(REGION_KEY) == role:
            return layer
    return None


def ensure_region_layer(viewer: "Viewer", slide: "Slide", role: Role) -> Shapes:
    """Return the layer of one role, made when there is none; its data are level-0 pixels."""
    layer = region_layer(viewer, role)
    if layer is not None:
        return layer
    layer = Shapes(
        ndim=2,
        name=_NAMES[role],
        metadata={REGION_KEY: role, SLIDE_KEY: slide},
        face_color="transparent",
        edge_color=_COLOURS[role],
        edge_width=max(slide.dimensions) / _EDGE_SCREEN_SHARE,
        opacity=0.9,
        axis_labels=("y", "x"),
        **placement(slide.mpp),
    )
    viewer.add_layer(layer)
    return layer


def place_region_layers(viewer: "Viewer", slide: "Slide") -> None:
    """Move what is drawn to the world of ``slide``, after its µm per pixel was given."""
    for role in ROLES:
        layer = region_layer(viewer, role)
        if layer is not None:
            layer.metadata[SLIDE_KEY] = slide
            for name, value in placement(slide.mpp).items():
                setattr(layer, name, value)


def show_regions(viewer: "Viewer", slide: "Slide", regions: Regions) -> None:
    """Add regions to the layers of their roles."""
    for role, polygons in zip(ROLES, (regions.include, regions.exclude), strict=True):
        pieces = [piece for polygon in polygons for piece in without_holes(polygon)]
        if pieces:
            layer = ensure_region_layer(viewer, slide, role)
            layer.add_polygons(
                [to_shape(piece) for piece in pieces],
                edge_color=_COLOURS[role],
                face_color="transparent",
                edge_width=max(slide.dimensions) / _EDGE_SCREEN_SHARE,
            )


def drawn_regions(viewer: "Viewer") -> Regions | None:
    """Return what is drawn in the region layers, or None when nothing is."""
    regions = Regions.of(*(areas_in(region_layer(viewer, role)) for role in ROLES))
    return regions or None


def areas_in(layer: Shapes | None) -> tuple[Polygon, ...]:
    """Return the areas drawn in a layer, in level-0 pixels."""
    if layer is None:
        return ()
    shapes = zip(layer.data, layer.shape_type, strict=True)
    return tuple(part for corners, kind in shapes for part in to_polygons(corners, kind))


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
