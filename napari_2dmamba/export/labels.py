"""Pictures of class numbers as polygons for QuPath, and as OME-TIFF."""

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import colour_indices, colour_table

if TYPE_CHECKING:
    from shapely import Polygon

    from napari_2dmamba.slide import Slide
    from napari_2dmamba.slide.georeference import Georeference

_NAMESPACE = uuid.UUID("5d0b0c52-64d5-4b0f-9d0c-2d5e1c0f2d2d")
_MOST_CLASSES = 65535
_ROWS = 1024
_DIGITS_ON_GROUND = 9  # of metres or degrees


def class_colours(
    classes: Sequence[str], given: Sequence[tuple[int, int, int]] = ()
) -> NDArray[np.uint8]:
    """Return ``(K, 3)`` colours: those given, else far from each other for neighbouring numbers."""
    if given:
        return np.asarray(given, np.uint8)
    golden = (np.sqrt(5) - 1) / 2
    positions = (0.5 + golden * np.arange(len(classes))) % 1
    return np.asarray(colour_table("turbo")[colour_indices(positions)][:, :3], np.uint8)


def write_label_geojson(
    labels: NDArray[np.unsignedinteger],
    path: str | Path,
    classes: Sequence[str],
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    step: float = 1.0,
    offset: tuple[float, float] = (0.0, 0.0),
    background: Sequence[str] = (),
    ground: "Georeference | None" = None,
    colours: Sequence[tuple[int, int, int]] = (),
) -> Path:
    """Write one polygon per connected area of one class, with holes, along pixel edges.

    Parameters
    ----------
    labels
        ``(h, w)``: 0 for no answer, k + 1 for class k. May be a memory map.
    path
        Usually ends in ``.geojson``.
    classes
        Names.
    origin, step
        Level-0 ``(x, y)`` of the top left corner, and level-0 pixels per pixel.
    offset
        Taken off all coordinates; the first two of `Slide.bounds` for QuPath.
    background
        Classes of which no polygons are written.
    ground
        Given, coordinates are those of its reference system, which the file names; else level-0
        pixels.
    colours
        Of the classes; see `class_colours`.

    Raises
    ------
    ExportError
        When a label is no class, or the file cannot be written.
    """
    _check(labels, classes)
    path = Path(path)
    inks = class_colours(classes, colours).tolist()
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"type":"FeatureCollection",{_system(ground)}"features":[\n')
        first = True
        for label, polygon in polygons(labels):
            name = classes[label - 1]
            if name in background:
                continue
            feature = _feature(polygon, name, inks[label - 1], origin, step, offset, ground)
            text = json.dumps(feature, ensure_ascii=False, separators=(",", ":"))
            file.write(text if first else ",\n" + text)
            first = False
        file.write("\n]}\n")
    return path


def write_outlines(
    labels: NDArray[np.unsignedinteger],
    path: Path,
    classes: Sequence[str],
    slide: "Slide",
    **more: Any,
) -> list[Path]:
    """Write polygons in level-0 pixels as QuPath counts them, and those on the ground beside.

    Parameters
    ----------
    labels, path, classes
        As of `write_label_geojson`, which takes ``more`` as well.
    slide
        Georeferenced, a second file ends in ``.crs.geojson``.

    Raises
    ------
    ExportError
        As of `write_label_geojson`.
    """
    written = [write_label_geojson(labels, path, classes, offset=slide.bounds[:2], **more)]
    if slide.georeference is not None:
        on_ground = path.with_name(path.name.removesuffix(".geojson") + ".crs.geojson")
        written.append(
            write_label_geojson(labels, on_ground, classes, ground=slide.georeference, **more)
        )
    return written


def polygons(
    labels: NDArray[np.unsignedinteger], rows: int = _ROWS
) -> Iterator[tuple[int, "Polygon"]]:
    """Yield label and outline of each 4-connected area, in pixels; label 0 has none.

    The areas of the polygons are the areas of the pixels. Strips of so many ``rows`` are in
    memory at a time; areas that cross from one into the next come last.
    """
    import shapely

    crossing: dict[int, list[Any]] = {}
    for top in range(0, len(labels), rows):
        strip = np.asarray(labels[top : top + rows])
        for label in np.unique(strip[strip > 0]).tolist():
            for outline in _outlines(strip == label, top):
                low, high = outline.bounds[1], outline.bounds[3]
                ends_above = low == top and top > 0
                if ends_above or (high == top + rows and high < len(labels)):
                    crossing.setdefault(label, []).append(outline)
                else:
                    yield label, outline
    for label, parts in sorted(crossing.items()):
        joined = shapely.simplify(shapely.union_all(parts), 0)
        for outline in shapely.get_parts(joined).tolist():
            yield label, outline


def _outlines(mask: NDArray[np.bool_], top: int) -> Iterator["Polygon"]:
    """Yield the outlines of the areas of a mask whose first row is ``top``."""
    import shapely

    areas, _ = scipy.ndimage.label(mask)
    for number, box in enumerate(scipy.ndimage.find_objects(areas), start=1):
        inside = areas[box] == number
        edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        row, start = np.nonzero(edges == 1)
        _, end = np.nonzero(edges == -1)
        y, left = top + box[0].start + row, box[1].start
        runs = shapely.box(left + start, y, left + end, y + 1)
        yield shapely.simplify(shapely.union_all(runs), 0)


def write_label_tiff(
    labels: NDArray[np.unsignedinteger],
    path: str | Path,
    classes: Sequence[str],
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    step: float = 1.0,
    mpp: float | None = None,
    tile_size: int = 512,
    ground: "Georeference | None" = None,
) -> Path:
    """Write class numbers as an OME-TIFF pyramid; levels above the first take every second pixel.

    Parameters
    ----------
    labels, classes, origin, step
        As of `write_label_geojson`.
    path
        Ends in ``.ome.tif``.
    mpp
        µm per level-0 pixel; None writes sizes in pixels.
    tile_size
        Side of a tile; a multiple of 16.
    ground
        Given, the file is a GeoTIFF as well.

    Raises
    ------
    ExportError
        When a label is no class, or the file cannot be written.
    """
    import tifffile

    _check(labels, classes)
    path = Path(path)
    unit, scale = ("pixel", 1.0) if mpp is None else ("µm", mpp)
    names = {str(k + 1): name for k, name in enumerate(classes)}
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": "classes",
        "PhysicalSizeX": step * scale,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": step * scale,
        "PhysicalSizeYUnit": unit,
        "Plane": {
            "PositionX": [origin[0] * scale],
            "PositionXUnit": [unit],
            "PositionY": [origin[1] * scale],
            "PositionYUnit": [unit],
        },
        "MapAnnotation": {"Namespace": "napari-2dmamba/classes", "0": "no answer", **names},
    }
    levels = 0
    while max(labels.shape) >> (levels + 1) >= tile_size:
        levels += 1
    with (
        atomic_write(path) as part,
        tifffile.TiffWriter(part, ome=True, bigtiff=labels.size * 2 > 2**31) as writer,
    ):
        for level in range(levels + 1):
            seen = labels[:: 2**level, :: 2**level]
            more: dict[str, Any] = {"subfiletype": 1, "metadata": None}
            if level == 0:
                more = {"subifds": levels, "metadata": metadata}
                if ground is not None:
                    more["extratags"] = ground.tags_of(origin, step)
            writer.write(
                _tiles(seen, tile_size),
                shape=seen.shape,
                dtype=np.uint16,
                tile=(tile_size, tile_size),
                photometric="minisblack",
                compression="zlib",
                **more,
            )
    return path


def _tiles(labels: NDArray[np.unsignedinteger], tile: int) -> Iterator[NDArray[np.uint16]]:
    for top in range(0, labels.shape[0], tile):
        for left in range(0, labels.shape[1], tile):
            part = np.asarray(labels[top : top + tile, left : left + tile], np.uint16)
            beyond = [(0, tile - side) for side in part.shape]
            yield np.pad(part, beyond)


def _check(labels: NDArray[np.unsignedinteger], classes: Sequence[str]) -> None:
    if labels.ndim != 2 or labels.dtype.kind != "u":
        raise ExportError(
            f"labels of shape {labels.shape} and type {labels.dtype} were given; (h, w) of an "
            "unsigned type is needed"
        )
    largest = max(
        (int(labels[i : i + _ROWS].max()) for i in range(0, len(labels), _ROWS)), default=0
    )
    if largest > min(len(classes), _MOST_CLASSES):
        raise ExportError(
            f"there is a label {largest}, but there are {len(classes)} classes; give the names "
            "of the classes the labels were made with"
        )


def _system(ground: "Georeference | None") -> str:
    """Return the member that names a reference system, as QGIS and GDAL read it."""
    if ground is None:
        return ""
    name = f"urn:ogc:def:crs:EPSG::{ground.epsg}" if ground.epsg else ground.crs
    return f'"crs":{json.dumps({"type": "name", "properties": {"name": name}})},'


def _feature(
    polygon: "Polygon",
    name: str,
    colour: list[int],
    origin: tuple[float, float],
    step: float,
    offset: tuple[float, float],
    ground: "Georeference | None",
) -> dict[str, Any]:
    def ring(points: Any) -> list[list[float]]:
        placed = np.asarray(points.coords) * step + origin
        if ground is not None:
            return np.round(ground.coordinates(placed), _DIGITS_ON_GROUND).tolist()
        return np.round(placed - offset, 3).tolist()

    rings = [ring(polygon.exterior), *(ring(hole) for hole in polygon.interiors)]
    key = f"{name} {rings[0][0]} {len(rings[0])}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, key)),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": colour},
        },
    }
