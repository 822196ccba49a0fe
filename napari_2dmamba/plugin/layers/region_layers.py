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
from napari.layers import Layer, Points, Shapes
from napari.layers.base import ActionType
from numpy.typing import NDArray
from shapely import LineString, Point

from napari_2dmamba.explain.map_regions import measured_with
from napari_2dmamba.plugin.layers.line_width import LineWidths
from napari_2dmamba.plugin.layers.region_shapes import to_polygons, to_shape, without_holes
from napari_2dmamba.plugin.layers.region_words import Colour, hex_of, length_words
from napari_2dmamba.plugin.layers.slide_layer import REGION_KEY, SLIDE_KEY, placement
from napari_2dmamba.slide import Region, Regions, read_regions
from napari_2dmamba.slide.regions import Role

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

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

Kept = dict[str, tuple[Region, list[NDArray[np.float32]]]]


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
            "color": "black", "size": 14,
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
            border_color="white",
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
        corners = np.asarray(points.data, dtype=np.float64)
        of_points = _all_said(points.features, len(corners))
        for place, ((y, x), said) in enumerate(zip(corners, of_points, strict=True)):
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
    of_shapes = _all_said(features, len(data))
    for place, said in enumerate(of_shapes):
        groups.setdefault(said["group"] or place, []).append(place)
    found = []
    for places in groups.values():
        said = of_shapes[places[0]]
        kept, outlines = _kept(metadata).get(said["group"], (None, []))
        as_put = len(outlines) == len(places) and all(
            np.array_equal(outline, np.asarray(data[place], dtype=np.float32))
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


def measure_again(layer: Layer, mpp: float | None) -> None:
    """Let the areas that regions of a layer were measured with count with these µm per pixel."""
    kept = _kept(layer.metadata)
    for group, (region, outlines) in kept.items():
        kept[group] = measured_with(region, mpp), outlines


def _covered(shapes: list[tuple[NDArray[np.floating], str]], role: Role) -> Any:
    if role == "note" and shapes[0][1] in ("line", "path"):
        return LineString(np.asarray(shapes[0][0], dtype=np.float64)[:, ::-1] + 0.5)
    areas = [area for corners, kind in shapes for area in to_polygons(corners, kind)]
    if not areas:
        return None
    return areas[0] if len(areas) == 1 else shapely.union_all(areas)


def _kept(metadata: dict[str, Any]) -> Kept:
    return metadata.get(_KEPT_KEY, {})


def _all_said(features: Any, count: int) -> list[dict[str, str]]:
    """Return what the features of shapes say of their regions; columns are read at once."""
    columns = {}
    for name in _SAID:
        words = [] if features is None or name not in features else list(features[name])[:count]
        words += [""] * (count - len(words))
        columns[name] = [word if isinstance(word, str) else "" for word in words]
    return [dict(zip(_SAID, row, strict=True)) for row in zip(*columns.values(), strict=True)]


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
    outlines, kinds, colours = [], [], []
    kept = _kept(layer.metadata)
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
        # single precision, as napari keeps corners
        kept[group] = region, [piece.astype(np.float32) for piece in pieces]
        outlines += pieces
        kinds += [kind] * len(pieces)
        colours += [hex_of(_ink(region))] * len(pieces)
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
            colours[place, :3] = np.array(_ink(one)) / 255
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
    """Let exactly these regions be drawn on a slide; what is there already stays there."""
    of_layer: dict[Shapes | Points, list[Annotation]] = {
        layer: []
        for layer in session.layers_of(slide)
        if isinstance(layer, Shapes | Points) and REGION_KEY in layer.metadata
    }
    for one in annotations(session, slide):
        of_layer[one.layer].append(one)
    changed, missing = [], list(regions)
    for layer, drawn in of_layer.items():
        is_points = isinstance(layer, Points)
        wanted = [
            one
            for one in regions
            if one.role == layer.metadata[REGION_KEY]
            and (one.geometry.geom_type == "Point") == is_points
        ]
        with layer.events.data.blocker():
            count, has_changed = _retain(layer, drawn, wanted)
        there = {id(one) for one in wanted[:count]}
        missing = [one for one in missing if id(one) not in there]
        if has_changed:
            changed.append(layer)
    changed += [one for one in _draw(session, slide, Regions(tuple(missing))) if one not in changed]
    _tell(changed)


def _retain(
    layer: Shapes | Points, drawn: list[Annotation], wanted: list[Region]
) -> tuple[int, bool]:
    """Remove what is not among the wanted, and let the rest be called as wanted.

    Returns
    -------
    int, bool
        How many of the wanted are there now, from the first; whether something has changed.
    """
    stays: list[Annotation] = []
    for one in drawn:
        if len(stays) < len(wanted) and _is_same(one.region, wanted[len(stays)]):
            stays.append(one)
    alive = sorted(place for one in stays for place in one.places)
    gone = sorted(set(range(len(layer.data))) - set(alive))
    if gone and isinstance(layer, Shapes):
        layer.remove(gone)
    elif gone:
        layer.selected_data = set(gone)
        layer.remove_selected()
    renamed = [
        ([alive.index(place) for place in one.places], region)
        for one, region in zip(stays, wanted, strict=False)
        if one.region != region
    ]
    if renamed:
        features = layer.features.iloc[: len(layer.data)].copy()
        rgba = np.array(layer.edge_color if isinstance(layer, Shapes) else layer.face_color)
        for places, region in renamed:
            for name in ("name", "classification"):
                features[name] = _changed(features[name], places, getattr(region, name))
            features["colour"] = _changed(features["colour"], places, hex_of(region.colour))
            rgba[places, :3] = np.array(_ink(region)) / 255
        defaults, layer.features = layer.feature_defaults, features
        layer.feature_defaults = defaults
        if isinstance(layer, Shapes):
            layer.edge_color = rgba
        else:
            layer.face_color = rgba
    return len(stays), bool(gone or renamed)


def _is_same(one: Region, other: Region) -> bool:
    """Whether two regions differ in name, class and colour at most."""
    same = one.id == other.id and one.properties == other.properties
    return same and one.role == other.role and bool(one.geometry == other.geometry)


def _changed(column: Any, places: list[int], word: str) -> list[str]:
    words = list(column)
    for place in places:
        words[place] = word
    return words


def _ink(region: Region) -> Colour:
    """Return the colour that a region is drawn in."""
    red, green, blue = bytes.fromhex(ROLE_COLOURS[region.role][1:])
    return region.colour or (red, green, blue)


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
    regions = read_regions(path, offset=slide.slide.bounds[:2], notes_suffice=True)
    show_regions(session, slide, regions)
    return regions


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
