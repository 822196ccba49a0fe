"""Regions of interest as shapes layers, one to include and one to exclude."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray
from shapely import Polygon, box
from shapely.validation import make_valid

from napari_2dmamba.plugin.slide_layer import REGION_KEY, SLIDE_KEY, placement
from napari_2dmamba.slide import Region, Regions

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

Role = Literal["include", "exclude"]
ROLES: tuple[Role, Role] = ("include", "exclude")

_NAMES = {"include": "Regions to include", "exclude": "Regions to exclude"}
_COLOURS = {"include": "#00a050", "exclude": "#d03020"}
_EDGE_SCREEN_SHARE = 400  # an edge this part of the slide's side is visible at first sight
_ELLIPSE_CORNERS = 64
_SAID = ("name", "classification")  # of a region, as features of its shapes


def region_layer(session: "Session", slide: "SlideState", role: Role) -> Shapes | None:
    """Return the layer of one role on a slide, or None while there is none."""
    for layer in session.layers_of(slide):
        if isinstance(layer, Shapes) and layer.metadata.get(REGION_KEY) == role:
            return layer
    return None


def ensure_region_layer(session: "Session", slide: "SlideState", role: Role) -> Shapes:
    """Return the layer of one role, made when there is none; its data are level-0 pixels."""
    layer = region_layer(session, slide, role)
    if layer is not None:
        return layer
    layer = Shapes(
        ndim=2,
        name=_NAMES[role],
        metadata={REGION_KEY: role, SLIDE_KEY: slide.slide},
        features={name: np.empty(0, dtype=object) for name in _SAID},
        face_color="transparent",
        edge_color=_COLOURS[role],
        edge_width=max(slide.slide.dimensions) / _EDGE_SCREEN_SHARE,
        opacity=0.9,
        axis_labels=("y", "x"),
        **placement(slide.slide.mpp),
    )
    session.add_layer(slide, layer)
    return layer


def show_regions(session: "Session", slide: "SlideState", regions: Regions) -> None:
    """Add regions to the layers of their roles."""
    for role in ROLES:
        pieces = [
            (piece, region)
            for region in regions
            if region.role == role
            for polygon in region.polygons
            for piece in without_holes(polygon)
        ]
        if not pieces:
            continue
        layer = ensure_region_layer(session, slide, role)
        before = layer.features
        layer.add_polygons(
            [to_shape(piece) for piece, _ in pieces],
            edge_color=_COLOURS[role],
            face_color="transparent",
            edge_width=max(slide.slide.dimensions) / _EDGE_SCREEN_SHARE,
        )
        layer.features = {
            name: [*before[name], *(getattr(region, name) for _, region in pieces)]
            for name in _SAID
        }
        layer.feature_defaults = dict.fromkeys(_SAID, "")  # what is drawn next has no name yet
        session.events.regions.emit(slide)


def drawn_regions(session: "Session", slide: "SlideState") -> Regions | None:
    """Return what is drawn on a slide, with names and classes, or None when nothing is."""
    found = []
    for role in ROLES:
        layer = region_layer(session, slide, role)
        if layer is None:
            continue
        shapes = zip(layer.data, layer.shape_type, strict=True)
        for place, (corners, kind) in enumerate(shapes):
            name, kind_of = (str(layer.features[one].iloc[place] or "") for one in _SAID)
            found += [Region(area, role, name, kind_of) for area in to_polygons(corners, kind)]
    return Regions(tuple(found)) or None


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
