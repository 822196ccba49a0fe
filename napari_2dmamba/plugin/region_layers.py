"""Regions and notes of a slide as napari layers: one of shapes for each role, one of points.

The layers are where regions live while a slide is open. What napari has no room for (holes,
identifiers, measurements) is kept beside the shapes for as long as nobody edits them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import shapely
from napari.layers import Points, Shapes
from napari.layers.base import ActionType
from numpy.typing import NDArray
from shapely import LineString, Point, Polygon, box
from shapely.validation import make_valid

from napari_2dmamba.plugin.line_width import LineWidths
from napari_2dmamba.plugin.slide_layer import REGION_KEY, SLIDE_KEY, placement
from napari_2dmamba.slide import Region, Regions, read_regions
from napari_2dmamba.slide.regions import Role

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

Colour = tuple[int, int, int]

ROLES: tuple[Role, ...] = ("include", "exclude", "note")
POINTS = "Points"
ROLE_COLOURS: dict[Role, str] = {"include": "#00a050", "exclude": "#d03020", "note": "#0060d0"}
"""Of what has no colour of its own."""

_NAMES: dict[Role, str] = {
    "include": "Regions to include",
    "exclude": "Regions to exclude",
    "note": "Annotations",
}
_KEPT_KEY = "2dmamba kept regions"  # by group: the region, and its shapes as they were drawn
_SAID = ("name", "classification", "colour", "group")  # of a region, as features of its shapes
_LABEL = "label"  # what is written at a line
_LINE_PIXELS = 2.5
_POINT_PIXELS = 11
_ELLIPSE_CORNERS = 64

Kept = dict[str, tuple[Region, list[NDArray[np.float64]]]]


@dataclass(frozen=True)
class Annotation:
    """A region as it is drawn.

    Attributes
    ----------
    region
        What it is.
    layer, places
        The layer that holds it, and the numbers of its shapes or points there.
    """

    region: Region
    layer: Shapes | Points
    places: tuple[int, ...]


def region_layer(
    session: "Session", slide: "SlideState", role: Role, kind: type[Shapes | Points] = Shapes
) -> Any:
    """Return the layer of one role on a slide, or None while there is none."""
    for layer in session.layers_of(slide):
        if isinstance(layer, kind) and layer.metadata.get(REGION_KEY) == role:
            return layer
    return None


def ensure_region_layer(session: "Session", slide: "SlideState", role: Role) -> Shapes:
    """Return the layer of one role, made when there is none; its data are level-0 pixels."""
    layer: Shapes | None = region_layer(session, slide, role)
    if layer is not None:
        return layer
    layer = Shapes(
        ndim=2,
        name=_NAMES[role],
        face_color="transparent",
        edge_color=ROLE_COLOURS[role],
        opacity=0.9,
        **_options(slide, role),
    )
    if role == "note":
        layer.text = {
            "string": "{" + _LABEL + "}\n\u00a0",  # an empty line below: the words stand above it
            "color": ROLE_COLOURS[role], "size": 11,
            "anchor": "center", "translation": (0, 0),
        }  # fmt: skip
        layer.events.data.connect(_label_lines)
        layer.events.scale.connect(_label_lines)
    session.add_layer(slide, layer)
    LineWidths.of(session.viewer).follow(layer, _LINE_PIXELS)
    return layer


def ensure_points_layer(session: "Session", slide: "SlideState") -> Points:
    """Return the layer of points, made when there is none."""
    layer: Points | None = region_layer(session, slide, "note", Points)
    if layer is None:
        layer = Points(
            ndim=2,
            name=POINTS,
            face_color=ROLE_COLOURS["note"],
            border_width=0,
            canvas_size_limits=(_POINT_PIXELS, _POINT_PIXELS),
            **_options(slide, "note"),
        )
        session.add_layer(slide, layer)
    return layer


def _options(slide: "SlideState", role: Role) -> dict[str, Any]:
    return {
        "metadata": {REGION_KEY: role, SLIDE_KEY: slide.slide, _KEPT_KEY: {}},
        "features": {name: np.empty(0, dtype=object) for name in (*_SAID, _LABEL)},
        "feature_defaults": dict.fromkeys((*_SAID, _LABEL), ""),
        "axis_labels": ("y", "x"),
        **placement(slide.slide.mpp),
    }


# -- drawn to regions -----------------------------------------------------------------------


def annotations(session: "Session", slide: "SlideState") -> list[Annotation]:
    """Return what is drawn on a slide: areas and lines by role, then points."""
    found = []
    for role in ROLES:
        layer = region_layer(session, slide, role)
        if layer is not None:
            drawn = regions_of_shapes(
                layer.data, layer.shape_type, layer.features, layer.metadata, role
            )
            found += [Annotation(region, layer, places) for region, places in drawn]
    points: Points | None = region_layer(session, slide, "note", Points)
    if points is not None:
        for place, (y, x) in enumerate(np.asarray(points.data, dtype=np.float64)):
            said = _said(points.features, place)
            kept = _kept(points.metadata).get(said["group"])
            base = Region(Point(), "note") if kept is None else kept[0]
            region = _as_said(replace(base, geometry=Point(x + 0.5, y + 0.5)), said)
            found.append(Annotation(region, points, (place,)))
    return found


def drawn_regions(session: "Session", slide: "SlideState") -> Regions | None:
    """Return what is drawn on a slide, with names and classes, or None when nothing is."""
    return Regions(tuple(one.region for one in annotations(session, slide))) or None


def regions_of_shapes(
    data: Sequence[NDArray[np.floating]],
    kinds: Sequence[str],
    features: Any,
    metadata: dict[str, Any],
    role: Role,
) -> list[tuple[Region, tuple[int, ...]]]:
    """Return the regions of a shapes layer, and which shapes each is made of.

    Shapes of one group are one region. One whose shapes are as they were put there is that very
    region; otherwise it is what its shapes cover now, without what was measured on it.
    """
    groups: dict[object, list[int]] = {}
    for place in range(len(data)):
        groups.setdefault(_said(features, place)["group"] or place, []).append(place)
    found = []
    for places in groups.values():
        said = _said(features, places[0])
        kept, outlines = _kept(metadata).get(said["group"], (None, []))
        as_put = len(outlines) == len(places) and all(
            np.array_equal(outline, data[place])
            for outline, place in zip(outlines, places, strict=True)
        )
        if kept is not None and as_put:
            region = replace(kept, role=role)
        else:
            geometry = _covered([(data[place], str(kinds[place])) for place in places], role)
            if geometry is None:
                continue
            region = Region(geometry, role)
            if kept is not None:
                left = {k: v for k, v in kept.properties.items() if k != "measurements"}
                region = replace(region, id=kept.id, properties=left)
        found.append((_as_said(region, said), tuple(places)))
    return found


def _covered(shapes: list[tuple[NDArray[np.floating], str]], role: Role) -> Any:
    if role == "note" and shapes[0][1] in ("line", "path"):
        return LineString(np.asarray(shapes[0][0], dtype=np.float64)[:, ::-1] + 0.5)
    areas = [area for corners, kind in shapes for area in to_polygons(corners, kind)]
    if not areas:
        return None
    return areas[0] if len(areas) == 1 else shapely.union_all(areas)


def _kept(metadata: dict[str, Any]) -> Kept:
    return metadata.get(_KEPT_KEY, {})


def _said(features: Any, place: int) -> dict[str, str]:
    if features is None or place >= len(features):
        return dict.fromkeys(_SAID, "")
    has = features.columns
    return {
        name: said if name in has and isinstance(said := features[name].iloc[place], str) else ""
        for name in _SAID
    }


def _as_said(region: Region, said: dict[str, str]) -> Region:
    colour = said["colour"]
    return replace(
        region,
        name=said["name"],
        classification=said["classification"],
        colour=(
            None if not colour
            else (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))
        ),
    )  # fmt: skip


def hex_of(colour: Colour | None) -> str:
    """Return a colour as ``#rrggbb``, empty for none."""
    return "" if colour is None else "#{:02x}{:02x}{:02x}".format(*colour)


# -- regions to drawn -----------------------------------------------------------------------


def show_regions(session: "Session", slide: "SlideState", regions: Regions) -> None:
    """Add regions to the layers of their roles, and tell of them when all are there."""
    _tell(_draw(session, slide, regions))


def _draw(session: "Session", slide: "SlideState", regions: Regions) -> list[Shapes | Points]:
    """Add regions in silence; returns the layers that have changed."""
    changed: list[Shapes | Points] = []
    for role in ROLES:
        of_role = [one for one in regions if one.role == role]
        shapes = [one for one in of_role if one.geometry.geom_type != "Point"]
        points = [one for one in of_role if one.geometry.geom_type == "Point"]
        if shapes:
            changed.append(ensure_region_layer(session, slide, role))
            _add_shapes(changed[-1], shapes)
        if points:
            changed.append(ensure_points_layer(session, slide))
            _add_points(changed[-1], points)
    return changed


def _add_shapes(layer: Shapes, regions: list[Region]) -> None:
    role: Role = regions[0].role
    outlines, kinds, colours = [], [], []
    rows: dict[str, list[str]] = {name: [] for name in (*_SAID, _LABEL)}
    for region in regions:
        group = uuid4().hex
        if region.geometry.geom_type == "LineString":
            corners = np.asarray(region.geometry.coords)
            pieces = [corners[:, 1::-1] - 0.5]
            kind = "line" if len(corners) == 2 else "path"
        else:
            pieces = [to_shape(p) for area in region.polygons for p in without_holes(area)]
            kind = "polygon"
        _kept(layer.metadata)[group] = region, pieces
        outlines += pieces
        kinds += [kind] * len(pieces)
        colours += [hex_of(region.colour) or ROLE_COLOURS[role]] * len(pieces)
        _say(rows, region, group, len(pieces))
    before, width = layer.features.iloc[: layer.nshapes], layer.current_edge_width
    with layer.events.data.blocker():  # nobody is to read shapes without their names
        layer.add(
            outlines, shape_type=kinds, edge_color=colours, face_color="transparent",
            edge_width=width,
        )  # fmt: skip
        _set_features(layer, before, rows)


def _add_points(layer: Points, regions: list[Region]) -> None:
    rows: dict[str, list[str]] = {name: [] for name in (*_SAID, _LABEL)}
    for region in regions:
        group = uuid4().hex
        _kept(layer.metadata)[group] = region, []
        _say(rows, region, group, 1)
    before, count = layer.features, len(layer.data)
    with layer.events.data.blocker():
        layer.add([(one.geometry.y - 0.5, one.geometry.x - 0.5) for one in regions])
        _set_features(layer, before, rows)
        colours = np.array(layer.face_color)
        for place, one in enumerate(regions, start=count):
            rgb = tuple(bytes.fromhex((hex_of(one.colour) or ROLE_COLOURS["note"])[1:]))
            colours[place, :3] = np.array(rgb) / 255
        layer.face_color = colours


def _say(rows: dict[str, list[str]], region: Region, group: str, times: int) -> None:
    words = (region.name, region.classification, hex_of(region.colour), group, "")
    for name, word in zip(rows, words, strict=True):
        rows[name] += [word] * times


def _set_features(layer: Shapes | Points, before: Any, rows: dict[str, list[str]]) -> None:
    kept = {name: list(before[name]) if name in before else [""] * len(before) for name in rows}
    layer.features = {name: [*kept[name], *rows[name]] for name in rows}
    layer.feature_defaults = dict.fromkeys(rows, "")  # what is drawn next has no name yet


def _tell(layers: Sequence[Shapes | Points]) -> None:
    for layer in layers:
        layer.events.data(
            value=layer.data, action=ActionType.CHANGED, data_indices=(-1,), vertex_indices=((),)
        )


def replace_regions(session: "Session", slide: "SlideState", regions: Regions) -> None:
    """Let exactly these regions be drawn on a slide."""
    changed: list[Shapes | Points] = []
    for layer in session.layers_of(slide):
        if REGION_KEY not in layer.metadata or not len(layer.data):
            continue
        with layer.events.data.blocker():
            if isinstance(layer, Shapes):
                layer.remove(list(range(layer.nshapes)))
            else:
                layer.data = np.empty((0, 2))
        _kept(layer.metadata).clear()
        changed.append(layer)
    changed += [one for one in _draw(session, slide, regions) if one not in changed]
    _tell(changed)


def import_regions(session: "Session", slide: "SlideState", path: str | Path) -> Regions:
    """Show the regions of a GeoJSON file on a slide, in level-0 pixels as QuPath counts them.

    Returns
    -------
    Regions
        What was read.

    Raises
    ------
    GridError
        When the file is no GeoJSON, or holds nothing to show; nothing has changed then.
    """
    regions = read_regions(path, offset=slide.slide.bounds[:2])
    show_regions(session, slide, regions)
    return regions


# -- words ----------------------------------------------------------------------------------


def region_names(regions: Sequence[Region]) -> list[str]:
    """Return what regions are called: by name, else by class or form and number; no name twice."""
    found: list[str] = []
    for number, one in enumerate(regions, start=1):
        form = {"Point": "Point", "LineString": "Line"}.get(one.geometry.geom_type, "Area")
        name = plain = one.name or f"{one.classification or form} {number}"
        copies = 1
        while name in found:
            copies += 1
            name = f"{plain} ({copies})"
        found.append(name)
    return found


def length_words(pixels: float, mpp: float | None) -> str:
    """Say how long something of so many level-0 pixels is."""
    if mpp is None:
        return f"{pixels:,.0f} px".replace(",", "\u2009")
    micrometres = pixels * mpp
    return f"{micrometres:.1f} µm" if micrometres < 1000 else f"{micrometres / 1000:.3f} mm"


def _label_lines(event: Any) -> None:
    """Write its length at every line of a layer."""
    layer: Shapes = event.source
    slide = layer.metadata[SLIDE_KEY]
    labels = []
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        is_line = kind in ("line", "path")
        steps = np.diff(np.asarray(corners, dtype=np.float64), axis=0)
        length = float(np.hypot(*steps.T).sum())
        labels.append(length_words(length, slide.mpp) if is_line else "")
    features = layer.features.iloc[: len(labels)].copy()
    if len(features) == len(labels) and list(features[_LABEL]) != labels:
        features[_LABEL] = labels
        defaults = layer.feature_defaults
        layer.features = features
        layer.feature_defaults = defaults
        layer.refresh_text()


# -- shapes and polygons ----------------------------------------------------------------------


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
