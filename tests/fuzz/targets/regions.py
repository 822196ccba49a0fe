"""Regions as GeoJSON of QuPath and others, plain, gzipped, and in other encodings."""

import gzip
import json
from pathlib import Path

import numpy as np
from shapely import Polygon, box

from napari_2dmamba.errors import UserError
from napari_2dmamba.slide.region_files import read_regions, write_regions
from napari_2dmamba.slide.regions import Region, Regions
from tests.fuzz.mutate import Seed

ALLOWED = UserError
_SIZE = (4000, 3000)
_HOLED = Polygon([(10, 10), (900, 20), (880, 700), (20, 650)], [[(99, 99), (99, 300), (300, 300)]])
_UNPACKED = ".to-gzip"


def seeds(folder: Path) -> list[Seed]:
    """Write what this program and QuPath write, what others may, and texts to be gzipped."""
    own = folder / "own.geojson"
    drawn = Region(_HOLED, name="island", classification="Tumor", colour=(200, 0, 0), id="a-1")
    write_regions(Regions((drawn, *Regions.of([box(0, 0, 50, 60)], [box(5, 5, 20, 20)]))), own)
    outline = [[list(corner) for corner in _HOLED.exterior.coords]]
    crossing = [[[0, 0], [900, 900], [900, 0], [0, 900], [0, 0]]]
    qupath = json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "id": "7f1c", "geometry": {"type": "Polygon", "coordinates": outline},
         "properties": {"objectType": "annotation", "isLocked": False, "measurements": {"a": 1.5},
                        "classification": {"name": "Ignore*", "color": [180, 180, 180]}}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [
            outline, [[[1000, 1000], [1200.5, 1000], [1100, 1300]]]]},
         "properties": {"classification": {"names": ["Tumor", "rim"], "colorRGB": -3670016}}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 6]},
         "properties": {"annotation_only": True, "name": "here"}},
        {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[5, 6], [7, 80]]},
         "properties": {"annotation_only": True}},
    ]})  # fmt: skip
    bare = json.dumps([
        {"type": "GeometryCollection", "geometries": [
            {"type": "Polygon", "coordinates": crossing},
            {"type": "Point", "coordinates": [1, 2]}]},
        {"type": "Feature", "properties": {"exclude": True},
         "geometry": {"type": "Polygon", "coordinates": [[[1, 2, 0], [9, 2, 0], [9, 9, 0]]]}},
    ])  # fmt: skip
    texts = {
        "qupath.geojson": qupath.encode("utf-8-sig"),
        "bare.json": bare.encode(),
        "wide.geojson": bare.encode("utf-16"),
        f"inside.geojson{_UNPACKED}": qupath.encode(),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    packed = folder / "packed.geojson.gz"
    packed.write_bytes(gzip.compress(qupath.encode(), mtime=0))
    return [Seed(own, text=True), *(Seed(folder / name, text=True) for name in texts), Seed(packed)]


def drive(path: Path) -> None:
    """Read them, draw them on a slide, and write and read them again."""
    if path.suffix == _UNPACKED:
        whole = path.with_name("whole.geojson.gz")
        whole.write_bytes(gzip.compress(path.read_bytes()))
        path = whole
    regions = read_regions(path, offset=(7, 9), notes_suffice=True)
    mask = regions.rasterize((300, 400), _SIZE)
    again = path.with_name("again.geojson")
    write_regions(regions, again, offset=(7, 9))
    second = read_regions(again, offset=(7, 9), notes_suffice=True)
    assert [one.role for one in second] == [one.role for one in regions]
    np.testing.assert_array_equal(second.rasterize((300, 400), _SIZE), mask)
    assert len(regions.content_hash()) == 64
