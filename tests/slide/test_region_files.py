"""Regions: round trips, fills against shapely point by point, and files that are wrong or large."""

import dataclasses
import gzip
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon, box
from shapely.geometry import mapping

from napari_2dmamba.errors import GridError
from napari_2dmamba.slide import Region, Regions, read_regions, write_regions
from tests.material import shared

SQUARE = mapping(box(10, 20, 110, 220))


def written(folder: Path, geometry: Any, **properties: Any) -> Path:
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    path = folder / "r.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_what_quppath_wrote_comes_back(tmp_path: Path) -> None:
    two = MultiPolygon([Polygon(box(0, 0, 90, 90).exterior, [box(10, 10, 30, 30).exterior]),
                        box(100, 0, 120, 50)])  # fmt: skip
    regions = Regions((
        Region(two, "include", "core", "Tumor", (200, 0, 0), "a-b", {
               "isLocked": True, "measurements": {"Area µm^2": 1.5}}),
        Region(box(1, 2, 3.25, 1 / 3 + 4), "exclude", "", "Tumor", None),
        Region(box(1, 2, 3, 4), "include", "", "Ignore*", (1, 2, 3)),
        Region(box(5, 5, 6, 6), "exclude", "", "", (9, 9, 9)),
    ))  # fmt: skip
    write_regions(regions, tmp_path / "r.geojson", offset=(7, 5))
    back = read_regions(tmp_path / "r.geojson", offset=(7, 5))
    for one, other in zip(back, regions, strict=True):
        assert one.geometry.equals_exact(other.geometry, 1e-12)
        assert (one.role, one.name, one.classification, one.colour, one.id) == (
            other.role, other.name, other.classification, other.colour, other.id,
        )  # fmt: skip
    assert back.regions[0].properties == regions.regions[0].properties
    assert len(back.include) == 3


@given(st.integers(0, 10**6), st.integers(3, 12), st.booleans())
def test_pixels_are_those_whose_centre_shapely_finds_inside(
    seed: int, corners: int, long: bool
) -> None:
    from napari_2dmamba.slide import regions as module

    rng = np.random.default_rng(seed)
    shapes = [shapely.make_valid(Polygon(rng.random((corners, 2)) * 100), method="structure")
              for _ in range(3)]  # fmt: skip
    shapes.append(
        Polygon(box(20.3, 20.3, 80.3, 80.3).exterior, [box(30.5, 30.5, 69.5, 61.3).exterior])
    )
    polygons = [part for one in shapes for part in getattr(one, "geoms", [one])]
    limit = module.CHECKED_CORNERS
    module.CHECKED_CORNERS = 4 if long else limit  # outlines drawn by themselves
    try:
        mask = Regions.of(polygons).rasterize((20, 25), (100, 100))
    finally:
        module.CHECKED_CORNERS = limit
    x, y = np.meshgrid((np.arange(25) + 0.5) * 4, (np.arange(20) + 0.5) * 5)
    inside = np.zeros((20, 25), bool)
    for polygon in polygons:
        inside |= shapely.contains_xy(polygon, x, y)
    np.testing.assert_array_equal(mask, inside)


@pytest.mark.parametrize("name", ["bom.geojson", "gz.geojson.gz"])
def test_byte_order_mark_and_gzip(name: str) -> None:
    assert len(read_regions(shared(f"cases/regions/{name}"))) > 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, SQUARE, name="Größe")
    path.write_text(path.read_text(), encoding=encoding)
    packed = tmp_path / "packed.geojson"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_regions(packed).include[0].bounds == (10, 20, 110, 220)
    zipped = tmp_path / "r.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "annotations.geojson")
        archive.writestr("readme.txt", "x")
    assert read_regions(zipped).include[0].bounds == (10, 20, 110, 220)
    data = bytearray(zipped.read_bytes())
    data[70:80] = bytes(10)
    zipped.write_bytes(data)
    with pytest.raises(GridError, match=r"r\.zip is damaged"):
        read_regions(zipped)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.geojson", "{}")
        archive.writestr("b.geojson", "{}")
    with pytest.raises(GridError, match="holds 2 GeoJSON files"):
        read_regions(zipped)


@pytest.mark.parametrize(
    ("geometry", "properties"),
    [
        ({"type": "Polygon", "coordinates": [[["1", "2"], ["3", "4"], ["5", "9"]]]}, {}),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, None], [5, 9]]]}, {}),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, 1e300], [5, 9]]]}, {}),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}, {}),
        ({"type": "Polygon", "coordinates": [[[1, 2], 7, [5, 9]]]}, {}),
        ({"type": "Polygon", "coordinates": 7}, {}),
        ({"type": "Polygon", "coordinates": {"a": 1}}, {}),
        ({"type": "MultiPolygon", "coordinates": [3]}, {}),
        ({"type": "Polygon"}, {}),
        ({"type": ["Polygon"], "coordinates": []}, {}),
        ([1], {}),
        ("x", {}),
        (SQUARE, {"classification": 4}),
        (SQUARE, {"classification": {"name": 4}}),
        (SQUARE, {"classification": {"names": [4]}}),
    ],
)  # fmt: skip
def test_wrong_types_are_one_sentence(tmp_path: Path, geometry: Any, properties: Any) -> None:
    with pytest.raises(GridError, match=r"^r\.geojson holds a shape that cannot be read") as found:
        read_regions(written(tmp_path, geometry, **properties))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"type": "Feature", "geometry": NaN}', "\x1f\x8bx"]
)
def test_damaged_files_are_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.geojson").write_bytes(text.encode("latin-1"))
    with pytest.raises(GridError, match=r"r\.geojson"):
        read_regions(tmp_path / "r.geojson")


def test_a_height_is_left_aside_and_a_crossing_outline_filled(tmp_path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0, 5], [10, 10, 5], [10, 0, 5], [0, 10, 5]]]}
    regions = read_regions(written(tmp_path, bow))
    assert regions.regions[0].geometry.is_valid
    assert sum(part.area for part in regions.include) == pytest.approx(50)


def test_many_objects_and_long_outlines_are_read_and_drawn(tmp_path: Path) -> None:
    """They took minutes; no time is asserted, the suite's limit would tell."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 9000, (20_000, 2))
    squares = [mapping(box(x, y, x + 9, y + 9)) for x, y in corners.tolist()]
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    radius = np.where(np.arange(100_000) % 2, 1000.0, 4000.0)
    star = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1) + 4500
    scribble = rng.random((300, 2)) * 1000
    more = [{"type": "Polygon", "coordinates": [one.tolist()]} for one in (star, scribble)]
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps({"type": "GeometryCollection", "geometries": [*squares, *more]}))
    features = [{"type": "Feature", "geometry": one} for one in [*squares, *more]]
    path.write_text(json.dumps(features))
    regions = read_regions(path)
    assert len(regions) == 20_002
    mask = regions.rasterize((300, 300), (9000, 9000))
    assert mask[150, 150]
    only = Regions(tuple(dataclasses.replace(one) for one in regions.regions[:20_000]))
    drawn = only.rasterize((1000, 1000), (9000, 9000))
    expected = np.zeros((1000, 1000), bool)
    for x, y in corners:
        left, top = (int(np.ceil(v / 9 - 0.5)) for v in (x, y))
        expected[top : top + 1, left : left + 1] = True
    np.testing.assert_array_equal(drawn, expected)


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """One read of at most the largest file sets all of that aside first."""
    path = written(tmp_path, SQUARE)
    tracemalloc.start()
    try:
        read_regions(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_half_characters_come_back_and_half_utf16_is_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, SQUARE, name="a\ud800b")
    regions = read_regions(path)
    write_regions(regions, tmp_path / "again.geojson")
    assert next(iter(read_regions(tmp_path / "again.geojson"))).name == "a\ud800b"
    wide = path.read_text().encode("utf-16")
    path.write_bytes(wide)
    assert len(read_regions(path)) == 1
    path.write_bytes(wide[:-1])
    with pytest.raises(GridError, match=r"r\.geojson is damaged"):
        read_regions(path)


def test_a_ring_of_very_many_corners_is_read_and_drawn(tmp_path: Path) -> None:
    """A million took more than 40 s; no time is asserted, the suite's limit would tell."""
    angle = np.linspace(0, 2 * np.pi, 300_000, endpoint=False)
    radius = np.where(np.arange(300_000) % 2, 3000.0, 4000.0)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] + 4500
    rows = ",".join(map("[{:.1f},{:.1f}]".format, *ring.T))
    path = tmp_path / "r.geojson"
    path.write_text(f'{{"type": "Polygon", "coordinates": [[{rows}]]}}')
    mask = read_regions(path).rasterize((90, 90), (9000, 9000))
    y, x = np.mgrid[:90, :90] * 100 + 50 - 4500
    distance = np.hypot(x, y)
    assert mask[distance < 2950].all()
    assert not mask[distance > 4050].any()
