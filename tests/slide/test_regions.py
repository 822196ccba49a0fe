"""Regions: what QuPath writes, include and exclude, offsets, and files that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon, box
from shapely.geometry import mapping

from napari_2dmamba.errors import GridError
from napari_2dmamba.slide import Regions, read_regions, write_regions

SQUARE = mapping(box(10, 20, 110, 220))
OTHER = mapping(box(300, 300, 400, 350))


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "7", "geometry": geometry, "properties": properties}


def written(path: Path, data: Any) -> Path:
    path = path / "regions.geojson"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    "data",
    [
        {"type": "FeatureCollection", "features": [feature(SQUARE), feature(OTHER)]},
        [feature(SQUARE), feature(OTHER)],
        feature({"type": "MultiPolygon",
                 "coordinates": [SQUARE["coordinates"], OTHER["coordinates"]]}),
        {"type": "GeometryCollection", "geometries": [SQUARE, OTHER]},
    ],
    ids=["collection", "list", "multipolygon", "geometries"],
)  # fmt: skip
def test_every_form_of_geojson_is_read(tmp_path: Path, data: Any) -> None:
    regions = read_regions(written(tmp_path, data))
    assert [polygon.bounds for polygon in regions.include] == [
        (10, 20, 110, 220), (300, 300, 400, 350),
    ]  # fmt: skip
    assert regions.exclude == ()


@pytest.mark.parametrize(
    ("properties", "excluded"),
    [
        ({"classification": {"name": "Tumor", "color": [200, 0, 0]}}, False),
        ({"classification": {"name": "Ignore*"}}, True),
        ({"classification": {"name": "exclude"}}, True),
        ({"classification": {"names": ["Ignore*"]}}, True),
        ({"classification": {"name": "Excluded margin"}}, False),
        ({"exclude": True}, True),
        ({"exclude": False}, False),
        ({"classification": None}, False),
        ({}, False),
    ],
)
def test_what_is_excluded(tmp_path: Path, properties: dict[str, Any], excluded: bool) -> None:
    regions = read_regions(written(tmp_path, feature(SQUARE, **properties)))
    assert (len(regions.include), len(regions.exclude)) == ((0, 1) if excluded else (1, 0))


def test_offset_is_added_on_reading_and_taken_off_on_writing(tmp_path: Path) -> None:
    path = written(tmp_path, feature(SQUARE))
    regions = read_regions(path, offset=(1000, 2000))
    assert regions.include[0].bounds == (1010, 2020, 1110, 2220)
    write_regions(regions, path, offset=(1000, 2000))
    assert read_regions(path).include[0].bounds == (10, 20, 110, 220)


def test_a_file_that_counts_from_level_0_is_moved_by_no_corner(tmp_path: Path) -> None:
    """The regions of a saved run, given to another run of a slide whose scan starts elsewhere."""
    regions = read_regions(written(tmp_path, feature(SQUARE)), offset=(0.1, 0.2))
    write_regions(regions, tmp_path / "of_run.geojson", offset=None)
    again = read_regions(tmp_path / "of_run.geojson", offset=(1000, 2000))
    assert again.content_hash() == regions.content_hash()


@given(
    st.lists(
        st.tuples(*[st.integers(0, 10**6)] * 2, *[st.integers(1, 10**5)] * 2),
        min_size=1, max_size=5,
    ),
    st.integers(0, 5),
)  # fmt: skip
def test_written_regions_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, ...]], cut: int
) -> None:
    polygons = tuple(box(x, y, x + w, y + h) for x, y, w, h in boxes)
    regions = Regions.of(polygons[:cut], polygons[cut:])
    path = tmp_path_factory.mktemp("regions") / "a.geojson"
    write_regions(regions, path)
    back = read_regions(path)
    for ours, theirs in ((regions.include, back.include), (regions.exclude, back.exclude)):
        assert len(ours) == len(theirs)
        assert all(a.equals(b) for a, b in zip(ours, theirs, strict=True))


def test_rasterizing_counts_pixel_centres_and_leaves_holes(tmp_path: Path) -> None:
    ring = Polygon(
        [(0, 0), (800, 0), (800, 800), (0, 800)],
        [[(200, 200), (600, 200), (600, 600), (200, 600)]],
    )
    regions = Regions.of(include=(ring,), exclude=(box(0, 0, 800, 100),))
    mask = regions.rasterize((100, 200), (1600, 800))
    expected = np.zeros((100, 200), bool)
    expected[:, :100] = True
    expected[25:75, 25:75] = False
    expected[:12] = False
    # an edge through a pixel's middle may fall to either side
    assert (mask != expected).sum() <= 2 * 50 * 4
    assert abs(int(mask.sum()) - int(expected.sum())) <= 300
    assert Regions().rasterize((5, 6), (60, 50)).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "is not GeoJSON"),
        ('{"a": 1}', "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "holds no areas"),
        ('{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}',
         "holds no areas"),
        ('{"type": "Feature", "geometry": {"type": "Blob"}}', "cannot be read"),
        ('{"type": "FeatureCollection"}', "is not GeoJSON"),
        ("\x00\xff", "is not GeoJSON"),
    ],
)  # fmt: skip
def test_other_files_get_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.geojson"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GridError, match=says):
        read_regions(path)


def test_a_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="cannot be read"):
        read_regions(tmp_path / "none.geojson")
