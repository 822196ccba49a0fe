"""Regions to include in an analysis or to exclude from it, as drawn or as QuPath saves them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from napari_2dmamba.errors import GridError
from napari_2dmamba.whole_files import written_whole

if TYPE_CHECKING:
    from shapely import Polygon


@dataclass(frozen=True)
class Regions:
    """Polygons in level-0 pixels.

    Attributes
    ----------
    include
        Only what lies in one of them counts; empty for the whole slide.
    exclude
        Nothing in them counts.
    """

    include: tuple["Polygon", ...] = ()
    exclude: tuple["Polygon", ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def rasterize(self, shape: tuple[int, int], dimensions: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of a picture of the whole slide count.

        Parameters
        ----------
        shape
            ``(h, w)`` of the picture.
        dimensions
            ``(width, height)`` of the slide in level-0 pixels.
        """
        scale = shape[1] / dimensions[0], shape[0] / dimensions[1]
        counts = _fill(self.include, shape, scale) if self.include else np.ones(shape, bool)
        return counts & ~_fill(self.exclude, shape, scale)


def _fill(
    polygons: tuple["Polygon", ...], shape: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.bool_]:
    """Mark pixels whose centre lies in a polygon and not in its holes."""
    filled = np.zeros(shape, bool)
    for polygon in polygons:
        canvas = Image.new("1", (shape[1], shape[0]))
        draw = ImageDraw.Draw(canvas)
        for ring, value in [(polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)]:
            corners = np.asarray(ring.coords)[:, :2] * scale - 0.5
            draw.polygon([tuple(corner) for corner in corners], fill=value)
        filled |= np.asarray(canvas)
    return filled


def read_regions(path: str | Path, *, offset: tuple[float, float] = (0, 0)) -> Regions:
    """Read a GeoJSON file as QuPath writes it.

    A feature is excluded when its classification is called "exclude" or starts with "ignore"
    (in any case; QuPath writes "Ignore*"), or when it has a true property ``exclude``;
    otherwise it is included.

    Parameters
    ----------
    offset
        Added to every coordinate: the first two of `Slide.bounds`, since QuPath counts from
        the corner of the scanned part.

    Raises
    ------
    GridError
        When the file is no GeoJSON, or holds no areas.
    """
    from shapely import affinity
    from shapely.geometry import shape as to_shape
    from shapely.validation import make_valid

    path = Path(path)
    try:
        features = _features(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise GridError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise GridError(f"{path.name} is not GeoJSON ({error}); export it from QuPath") from error
    include: list[Polygon] = []
    exclude: list[Polygon] = []
    for feature in features:
        try:
            geometry = make_valid(to_shape(feature["geometry"]))
        except Exception as error:
            raise GridError(f"{path.name} holds a shape that cannot be read ({error})") from error
        areas = _polygons(affinity.translate(geometry, *offset))
        (exclude if _is_excluded(feature.get("properties") or {}) else include).extend(areas)
    if not include and not exclude:
        raise GridError(f"{path.name} holds no areas; draw polygons or rectangles and export them")
    return Regions(tuple(include), tuple(exclude))


def write_regions(
    regions: Regions, path: str | Path, *, offset: tuple[float, float] = (0, 0)
) -> None:
    """Write regions as GeoJSON that QuPath and `read_regions` read back.

    Parameters
    ----------
    offset
        Subtracted from every coordinate; see `read_regions`.
    """
    from shapely import affinity
    from shapely.geometry import mapping

    features = [
        {
            "type": "Feature",
            "geometry": mapping(affinity.translate(polygon, -offset[0], -offset[1])),
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": color},
            },
        }
        for polygons, name, color in (
            (regions.include, "Include", [0, 160, 80]),
            (regions.exclude, "Exclude", [200, 60, 40]),
        )
        for polygon in polygons
    ]
    with written_whole(path) as draft:
        draft.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _features(data: Any) -> list[dict[str, Any]]:
    """Return the features of a collection, of a list, or of a single feature or geometry."""
    if isinstance(data, list):
        return [feature for item in data for feature in _features(item)]
    if not isinstance(data, dict) or "type" not in data:
        raise ValueError("no features were found")
    if data["type"] == "FeatureCollection":
        return _features(data.get("features"))
    if data["type"] == "Feature":
        return [data] if data.get("geometry") else []
    return [{"geometry": data}]


def _polygons(geometry: Any) -> list["Polygon"]:
    """Take the areas out of a geometry; lines and points have none."""
    if geometry.geom_type == "Polygon":
        return [] if geometry.is_empty else [geometry]
    return [part for piece in getattr(geometry, "geoms", ()) for part in _polygons(piece)]


def _is_excluded(properties: dict[str, Any]) -> bool:
    if properties.get("exclude"):
        return True
    classification = properties.get("classification") or {}
    if isinstance(classification, str):
        classification = {"name": classification}
    names = [classification.get("name") or "", *(classification.get("names") or [])]
    return any(re.match(r"\s*(exclude\s*$|ignore)", name, re.IGNORECASE) for name in names)
