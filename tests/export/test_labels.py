"""Class numbers as polygons and OME-TIFF: areas and places, to the pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from shapely.geometry import Point, shape

from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.labels import (
    class_colours,
    polygons,
    write_label_geojson,
    write_label_tiff,
)

PICTURE = np.array(
    [
        [1, 1, 1, 0],
        [1, 2, 1, 2],
        [1, 1, 1, 2],
    ],
    np.uint8,
)


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.integers(0, 3)),
    st.integers(1, 9),
)
def test_polygons_cover_their_pixels_and_no_others(labels: np.ndarray, rows: int) -> None:
    found = list(polygons(labels, rows))
    for label in (1, 2, 3):
        of_label = [p for k, p in found if k == label]
        assert len(of_label) == ndimage.label(labels == label)[1]
        assert sum(p.area for p in of_label) == (labels == label).sum()
        for row, col in zip(*np.nonzero(labels == label), strict=True):
            assert sum(p.contains(Point(col + 0.5, row + 0.5)) for p in of_label) == 1
    assert all(p.is_valid and p.geom_type == "Polygon" for _, p in found)


def test_geojson_lies_on_the_slide(tmp_path: Path) -> None:
    path = write_label_geojson(
        PICTURE, tmp_path / "l.geojson", ("stroma", "tumour"),
        origin=(100, 200), step=4, offset=(10, 20),
    )  # fmt: skip
    features = json.loads(path.read_text())["features"]
    names = [f["properties"]["classification"]["name"] for f in features]
    assert names == ["stroma", "tumour", "tumour"]
    outline = shape(features[0]["geometry"])
    assert outline.bounds == (90, 180, 102, 192)
    assert outline.area == 8 * 16
    assert shape(features[1]["geometry"]).bounds == (94, 184, 98, 188)
    assert len({f["id"] for f in features}) == 3
    write_label_geojson(PICTURE, path, ("stroma", "tumour"), background=("stroma",))
    assert len(json.loads(path.read_text())["features"]) == 2


def test_ome_tiff_holds_the_numbers(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (700, 300)).astype(np.uint16)
    path = write_label_tiff(
        labels, tmp_path / "l.ome.tif", ("a", "b"), origin=(8, 4), step=2, mpp=0.5, tile_size=256
    )
    with tifffile.TiffFile(path) as file:
        levels = file.series[0].levels
        np.testing.assert_array_equal(levels[0].asarray(), labels)
        np.testing.assert_array_equal(levels[1].asarray(), labels[::2, ::2])
        xml = file.ome_metadata
    assert 'PhysicalSizeX="1.0"' in xml
    assert 'PositionX="4.0"' in xml
    assert ">a<" in xml


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="label 2"):
        write_label_geojson(PICTURE, tmp_path / "l.geojson", ("a",))
    with pytest.raises(ExportError, match="unsigned"):
        write_label_tiff(PICTURE.astype(float), tmp_path / "l.ome.tif", ("a", "b"))
    assert not list(tmp_path.iterdir())


def test_colours_differ() -> None:
    colours = class_colours([str(i) for i in range(8)]).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(8)
    assert apart.min() > 40
