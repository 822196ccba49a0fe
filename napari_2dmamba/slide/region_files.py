"""Regions as GeoJSON files that QuPath writes and reads."""

import gc
import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import GridError
from napari_2dmamba.slide.regions import CHECKED_CORNERS, Region, Regions, Role

LARGEST_FILE = 2 * 2**30
"""Bytes of GeoJSON, unpacked; a million objects of 30 corners have some 600 MB."""

_FARTHEST = 1e9
"""Level-0 pixels; no slide is near as wide."""

_DEEPEST = 50
_ENDING = re.compile(r"\.(geojson|json)(\.gz)?$", re.IGNORECASE)
_ROLE_CLASSES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "include": ("Include", (0, 160, 80)),
    "exclude": ("Exclude", (200, 60, 40)),
}
"""Class and colour of regions that have none of their own, for QuPath to show; notes need none."""

_OF_LEVEL0 = "level0_pixels"
"""Member of a file whose coordinates count from the corner of level 0, not of the scanned part."""

_NOTE = "annotation_only"
"""Property of a feature that is a note: QuPath keeps it and shows it among the metadata."""


def read_regions(
    path: str | Path, *, offset: tuple[float, float] = (0, 0), notes_suffice: bool = False
) -> Regions:
    """Read a GeoJSON file as QuPath writes it, plain, gzipped or as the one in a zip.

    A feature is excluded when its property ``exclude`` is true; without this property, when its
    classification is called "exclude" or starts with "ignore" (in any case; QuPath writes
    "Ignore*"). A feature whose property ``annotation_only`` is true is a note. Outlines that cross
    themselves are filled. Points and lines are left aside, unless they are notes.

    Parameters
    ----------
    offset
        Added to every coordinate: the first two of `Slide.bounds`, since QuPath counts from
        the corner of the scanned part.
    notes_suffice
        Whether a file may hold notes alone: who restricts an analysis would get the whole slide.

    Raises
    ------
    GridError
        When the file is no GeoJSON, or holds no areas.
    """
    path = Path(path)
    try:
        data = _unpacked(path)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GridError(f"{path} cannot be read: {reason}") from error
    try:
        with _without_collector():
            regions = regions_from_geojson(json.loads(data, parse_constant=_refuse), offset=offset)
    except RecursionError as error:
        raise GridError(
            f"{path.name} is not GeoJSON (nested too deep); export it from QuPath"
        ) from error
    except GridError as error:
        raise GridError(f"{path.name} {error}") from error
    except ValueError as error:
        reason = str(error).partition("\n")[0][:200]
        raise GridError(f"{path.name} is not GeoJSON ({reason}); export it from QuPath") from error
    if not regions:
        raise GridError(f"{path.name} holds no areas; draw polygons or rectangles and export them")
    if not notes_suffice and all(one.role == "note" for one in regions):
        raise GridError(
            f"{path.name} holds annotations only, which restrict nothing; give a region the role "
            "include or exclude and export again"
        )
    return regions


def write_regions(
    regions: Regions, path: str | Path, *, offset: tuple[float, float] | None = (0, 0)
) -> None:
    """Write regions as GeoJSON that QuPath and `read_regions` read back.

    Parameters
    ----------
    offset
        Subtracted from every coordinate; see `read_regions`. With None they are kept to the bit,
        and the file says so: whoever reads it adds nothing, whatever the slide's corner is.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    import shapely
    from shapely.geometry import mapping

    said = "" if offset is not None else f'"{_OF_LEVEL0}":true,'
    with (
        atomic_write(path) as draft,
        # half a character, which JSON can hold and UTF-8 cannot, stays an escape of JSON
        draft.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.write(f'{{"type":"FeatureCollection",{said}"features":[\n')
        for number, one in enumerate(regions):
            shape = one.geometry
            if offset not in (None, (0, 0)):
                shape = shapely.transform(shape, lambda points: points - offset)
            feature: dict[str, Any] = {"type": "Feature"}
            if one.id:
                feature["id"] = one.id
            feature |= {"geometry": mapping(shape), "properties": _properties_of(one)}
            text = json.dumps(feature, ensure_ascii=False, separators=(",", ":"))
            file.write(text if number == 0 else ",\n" + text)
        file.write("\n]}\n")


def regions_from_geojson(data: Any, *, offset: tuple[float, float] = (0, 0)) -> Regions:
    """Return the areas in GeoJSON; see `read_regions`.

    Raises
    ------
    GridError
        When a shape or a property is not what GeoJSON has there.
    ValueError
        When it is no GeoJSON at all.
    """
    if isinstance(data, dict) and data.get(_OF_LEVEL0) is True:
        offset = (0, 0)
    features: list[dict[str, Any]] = []
    outlines: list[list[Any]] = []
    marks: list[Region] = []
    for feature in _features(data, 0):
        outline = _outline(feature["geometry"], len(features))
        if outline:
            features.append(feature)
            outlines.append(outline)
        elif _is_note(feature.get("properties")):
            marks += _mark(feature, offset, len(features) + len(marks))
    regions = []
    if features:
        shapes = _shapes(outlines, offset)
        for number, (feature, shape) in enumerate(zip(features, shapes, strict=True)):
            if shape is not None:
                regions.append(_region(feature, shape, number))
    return Regions((*regions, *marks))


def _unpacked(path: Path) -> bytes:
    """Return the file's text without packing and byte order mark, as UTF-8."""
    with path.open("rb") as file:
        start = file.read(4)
    try:
        with _opened(path, start) as stream:
            data = _read(stream)
    except (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise GridError(f"{path.name} is damaged ({error}); export it again") from error
    except Exception as error:
        if type(error).__module__ in ("zlib", "_lzma"):
            raise GridError(f"{path.name} is damaged ({error}); export it again") from error
        raise
    if len(data) > LARGEST_FILE:
        raise GridError(f"{path.name} has more than {LARGEST_FILE:,} bytes; export fewer objects")
    wide = "utf-32" if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") else "utf-16"
    if wide == "utf-32" or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode(wide).encode()
        except UnicodeDecodeError as error:
            raise GridError(f"{path.name} is damaged ({error.reason}); export it again") from error
    return data.removeprefix(b"\xef\xbb\xbf")


@contextmanager
def _opened(path: Path, start: bytes) -> Iterator[Any]:
    """Open a file for reading, unpacked: QuPath exports GeoJSON as zip as well."""
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path) as stream:
            yield stream
    elif start == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            names = [one for one in archive.namelist() if _ENDING.search(one)]
            if len(names) != 1:
                raise GridError(
                    f"{path.name} holds {len(names)} GeoJSON files, where one is wanted; unpack it "
                    "and choose one of them"
                )
            if archive.getinfo(names[0]).flag_bits & 1:
                raise GridError(f"{path.name} is locked by a password; unpack it first")
            with archive.open(names[0]) as stream:
                yield stream
    else:
        with path.open("rb") as stream:
            yield stream


def _read(stream: BufferedIOBase) -> bytes:
    """Return a stream to its end or a little past the largest file.

    In pieces: one read of at most 2 GB would set 2 GB aside for a file of any size.
    """
    data = bytearray()
    while len(data) <= LARGEST_FILE and (piece := stream.read(2**20)):
        data += piece
    return bytes(data)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Hold Python's garbage collector: with millions of new lists it takes most of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _features(data: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Yield the features of a collection, of a list, or of a single feature or geometry."""
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(data, list):
        for item in data:
            yield from _features(item, depth + 1)
        return
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise ValueError("no features were found")
    if data["type"] == "FeatureCollection":
        yield from _features(data.get("features"), depth + 1)
    elif data["type"] == "Feature":
        if data.get("geometry") is not None:
            yield data
    else:
        yield {"geometry": data}


def _outline(geometry: Any, number: int, depth: int = 0) -> list[list[Any]]:
    """Return the polygons of a geometry as lists of rings; lines and points have none."""
    if not isinstance(geometry, dict) or depth > _DEEPEST:
        raise _unreadable(number, "its geometry is no object")
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        parts = _list(geometry.get("geometries"), number)
        return [ring for part in parts for ring in _outline(part, number, depth + 1)]
    if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        return []
    if kind not in ("Polygon", "MultiPolygon"):
        raise _unreadable(number, f"there is no geometry of type {str(kind)[:40]!r}")
    coordinates = _list(geometry.get("coordinates"), number)
    polygons = [coordinates] if kind == "Polygon" else coordinates
    return [polygon for polygon in polygons if _list(polygon, number) and polygon[0]]


def _mark(feature: dict[str, Any], offset: tuple[float, float], number: int) -> list[Region]:
    """Return the line or point of a note; other geometries without area are left aside."""
    import shapely

    kind, corners = feature["geometry"].get("type"), feature["geometry"].get("coordinates")
    if kind not in ("Point", "LineString"):
        return []
    corners = [corners] if kind == "Point" else _list(corners, number)
    if kind == "LineString" and len(corners) < 2:
        raise _unreadable(number, "a line needs two ends")
    points = _points([corners], np.array([len(corners)]), np.array([number])) + offset
    shape = shapely.Point(points[0]) if kind == "Point" else shapely.LineString(points)
    return [_region(feature, shape, number)]


def _list(value: Any, number: int) -> list[Any]:
    if not isinstance(value, list):
        raise _unreadable(number, "its coordinates are no list")
    return value


def _unreadable(number: int, reason: str) -> GridError:
    return GridError(
        f"holds a shape that cannot be read (object {number + 1}: {reason}); export it again"
    )


def _shapes(outlines: list[list[Any]], offset: tuple[float, float]) -> NDArray[np.object_]:
    """Return one valid polygon or multipolygon per object, None where nothing of it has area."""
    import shapely

    rings, of_ring, of_polygon = [], [], []
    polygons = 0
    for number, outline in enumerate(outlines):
        for polygon in outline:
            for ring in polygon:
                if not isinstance(ring, list) or len(ring) < 3:
                    raise _unreadable(number, "a ring needs three corners")
                rings.append(ring)
                of_ring.append(polygons)
            of_polygon.append(number)
            polygons += 1
    lengths = np.fromiter(map(len, rings), np.int64, len(rings))
    owner = np.asarray(of_polygon)[np.asarray(of_ring)]
    points = _points(rings, lengths, owner) + offset
    made = shapely.polygons(
        shapely.linearrings(points, indices=np.repeat(np.arange(len(rings)), lengths)),
        indices=np.asarray(of_ring),
    )
    counts = np.bincount(of_polygon, minlength=len(outlines))
    if (counts != 1).any():
        made = shapely.multipolygons(made, indices=np.asarray(of_polygon))
        single = np.flatnonzero(counts == 1)
        made[single] = shapely.get_geometry(made[single], 0)
    short = np.flatnonzero(shapely.get_num_coordinates(made) <= CHECKED_CORNERS)
    broken = short[~shapely.is_valid(made[short])]
    if len(broken):
        made[broken] = shapely.make_valid(made[broken], method="structure", keep_collapsed=False)
    made[shapely.is_empty(made)] = None
    return made


def _points(
    rings: list[Any], lengths: NDArray[np.int64], owner: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the corners of all rings, ``(P, 2)`` level-0 ``(x, y)``."""
    flat = [point for ring in rings for point in ring]
    try:
        points = np.array(flat)
    except ValueError:  # some have a height as well, or are no points
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind not in "iuf":
        for number, ring in zip(owner, rings, strict=True):
            if not all(_is_point(point) for point in ring):
                raise _unreadable(int(number), "a corner is no pair of numbers")
        points = np.array([point[:2] for point in flat], dtype=np.float64)
    points = points[:, :2].astype(np.float64, copy=False)
    far = ~(np.abs(points) <= _FARTHEST).all(axis=1)
    if far.any():
        ring = int(np.searchsorted(np.cumsum(lengths), int(far.argmax()), side="right"))
        raise _unreadable(int(owner[ring]), "a corner lies beyond any slide")
    return points


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) >= 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in point[:2])
        and all(abs(v) < 10**300 for v in point[:2])
    )


def _region(feature: dict[str, Any], shape: Any, number: int) -> Region:
    properties = feature.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise _unreadable(number, "its properties are no object")
    name, colour = _class_of(properties.get("classification"), number)
    role: Role = "exclude" if _is_excluded(properties, name) else "include"
    if _is_note(properties):
        role = "note"
    elif name.casefold() in _ROLE_CLASSES:  # the role's own class, as `write_regions` writes it
        own = _ROLE_CLASSES["include" if name.casefold() == "include" else "exclude"][1]
        name, colour = "", None if colour == own else colour
    called, identifier = properties.get("name"), feature.get("id")
    return Region(
        shape,
        role,
        called if isinstance(called, str) else "",
        name,
        colour,
        identifier if isinstance(identifier, str) else "",
        {
            k: v
            for k, v in properties.items()
            if k not in _OWN_PROPERTIES and (k, v) != ("objectType", "annotation")  # as all are
        },
    )


def _class_of(classification: Any, number: int) -> tuple[str, tuple[int, int, int] | None]:
    """Return name and colour of a class, as QuPath writes and wrote them."""
    if classification is None:
        return "", None
    if isinstance(classification, str):
        return classification, None
    if not isinstance(classification, dict):
        raise _unreadable(number, "its classification is no object")
    name = classification.get("name")
    if name is None:
        names = classification.get("names") or []
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise _unreadable(number, "the names of its class are no texts")
        name = ": ".join(names)
    if not isinstance(name, str):
        raise _unreadable(number, "the name of its class is no text")
    colour, packed = classification.get("color"), classification.get("colorRGB")
    if (
        isinstance(colour, list)
        and len(colour) >= 3
        and all(isinstance(v, int) and 0 <= v <= 255 for v in colour[:3])
    ):
        return name, (colour[0], colour[1], colour[2])
    if isinstance(packed, int):
        return name, ((packed >> 16) & 255, (packed >> 8) & 255, packed & 255)
    return name, None


_OWN_PROPERTIES = ("name", "classification", "exclude", _NOTE)


def _is_note(properties: Any) -> bool:
    return isinstance(properties, dict) and properties.get(_NOTE) is True


def _is_excluded(properties: dict[str, Any], class_name: str) -> bool:
    if "exclude" in properties:
        return bool(properties["exclude"])
    return _names_an_exclusion(class_name)


def _names_an_exclusion(class_name: str) -> bool:
    """QuPath's derived classes are told with colons: "Tumor: Ignore*"."""
    return any(
        re.match(r"\s*(exclude\s*$|ignore)", part, re.IGNORECASE) for part in class_name.split(":")
    )


def _properties_of(region: Region) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation", **region.properties}
    if region.name:
        properties["name"] = region.name
    colour = region.colour
    if region.role == "note":
        properties[_NOTE] = True
        called = region.classification
    else:
        called, own = _ROLE_CLASSES[region.role]
        if region.classification:
            called = region.classification
        elif colour is None:
            colour = own
        if _names_an_exclusion(called) != (region.role == "exclude"):
            properties["exclude"] = region.role == "exclude"
    if called or colour is not None:
        classification: dict[str, Any] = {"name": called}
        if colour is not None:
            classification["color"] = list(colour)
        properties["classification"] = classification
    return properties


def regions_named_like(slide: Path, folder: Path) -> Path:
    """Return the file of a folder that holds the regions of a slide, by its name.

    For ``x.svs`` that is ``x.geojson``, ``x.json`` or one of them with ``.gz``, or the same with
    the slide's whole name, ``x.svs.geojson``.

    Raises
    ------
    GridError
        When there is none, or more than one.
    """
    stems = {slide.stem, slide.name, slide.stem.removesuffix(".ome")}
    try:
        found = sorted(
            one.name
            for one in folder.iterdir()
            if (ending := _ENDING.search(one.name)) and one.name[: ending.start()] in stems
        )
    except OSError as error:
        raise GridError(f"{folder.name} cannot be read ({error.strerror}); check it") from error
    if len(found) > 1:
        raise GridError(
            f"{folder.name} holds {' and '.join(found)} for {slide.name}; leave the right one there"
        )
    if not found:
        raise GridError(
            f"{folder.name} holds no regions of {slide.name} ({slide.stem}.geojson); put them "
            "there, or name the regions of each slide in a list"
        )
    return folder / found[0]
