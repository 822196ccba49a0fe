import json
import time
import uuid

import numpy as np
import pytest
import shapely

from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.geojson import write_geojson
from napari_2dmamba.export.patches import PatchScores

from .material import ATTENTION, COORDS, SIZE, TISSUE, scores


def test_tiles_lie_where_the_patches_lie(tmp_path) -> None:
    path = write_geojson(scores(), tmp_path / "a.geojson", slide_id="abc")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["type"] == "FeatureCollection"
    shapes = shapely.from_geojson(path.read_text(encoding="utf-8"))
    assert len(data["features"]) == len(shapes.geoms) == len(COORDS)
    for shape, (x, y), feature in zip(shapes.geoms, COORDS, data["features"], strict=True):
        assert shape.bounds == (x, y, x + SIZE, y + SIZE)
        assert shape.area == SIZE**2
        assert shape.is_valid
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "tile"
        assert feature["geometry"]["coordinates"][0][0] == [x, y]
        uuid.UUID(feature["id"])


def test_measurements_are_the_scores(tmp_path) -> None:
    extra = np.linspace(-1, 1, len(COORDS)).astype(np.float32)
    extra[3] = np.nan
    path = write_geojson(scores(**{'gradient "x" µ': extra}), tmp_path / "a.geojson")
    found = [
        f["properties"]["measurements"]
        for f in json.loads(path.read_text(encoding="utf-8"))["features"]
    ]
    np.testing.assert_array_equal(
        np.array([m["Attention"] for m in found], dtype=np.float32), ATTENTION
    )
    np.testing.assert_array_equal(
        np.array([m["Tissue fraction"] for m in found], dtype=np.float32), TISSUE
    )
    assert found[0]["Attention rank"] == 1
    assert found[1]["Attention rank"] == found[4]["Attention rank"] == 3
    assert found[0]["Attention percentile"] == 95
    assert (found[0]["Row"], found[0]["Column"]) == (0, 1)
    assert 'gradient "x" µ' not in found[3]
    assert found[-1]['gradient "x" µ'] == 1


def test_openslide_bounds_are_taken_off(tmp_path) -> None:
    path = write_geojson(scores(), tmp_path / "a.geojson", bounds=(30, 7, 1000, 1000))
    shapes = shapely.from_geojson(path.read_text())
    assert shapes.geoms[0].bounds == (70, -7, 170, 93)


def test_identifiers_belong_to_the_slide_and_the_place(tmp_path) -> None:
    def identifiers(slide_id: str) -> list[str]:
        path = write_geojson(scores(), tmp_path / "a.geojson", slide_id=slide_id)
        return [f["id"] for f in json.loads(path.read_text())["features"]]

    assert identifiers("one") == identifiers("one")
    assert len({*identifiers("one"), *identifiers("two")}) == 2 * len(COORDS)


def test_a_class_has_a_name_and_a_colour(tmp_path) -> None:
    path = write_geojson(scores(), tmp_path / "a.geojson", classification="tumour")
    found = json.loads(path.read_text())["features"][0]["properties"]["classification"]
    assert found["name"] == "tumour"
    assert len(found["color"]) == 3
    assert all(0 <= c <= 255 for c in found["color"])


def test_no_patches_make_an_empty_collection(tmp_path) -> None:
    none = PatchScores(COORDS[:0], SIZE, COORDS[:0], ATTENTION[:0])
    path = write_geojson(none, tmp_path / "a.geojson")
    assert json.loads(path.read_text()) == {"type": "FeatureCollection", "features": []}


def test_a_failed_export_leaves_the_old_file_alone(tmp_path, monkeypatch) -> None:
    path = write_geojson(scores(), tmp_path / "a.geojson")
    before = path.read_bytes()
    broken = scores()
    broken.maps["short"] = ATTENTION[:3]
    with pytest.raises(ValueError, match="shorter"):
        write_geojson(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.geojson"]


def test_a_folder_that_cannot_be_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ExportError, match=r"a\.geojson cannot be written .*choose a folder"):
        write_geojson(scores(), tmp_path / "file" / "a.geojson")


def test_lengths_that_do_not_agree_are_named() -> None:
    with pytest.raises(ExportError, match="attention has 3 values, but there are 10 patches"):
        PatchScores(COORDS, SIZE, COORDS, ATTENTION[:3])


def test_a_hundred_thousand_patches_are_written(tmp_path) -> None:
    side = 317
    row, col = np.divmod(np.arange(side * side), side)
    coords = np.stack([col, row], axis=1).astype(np.int64) * 256
    attention = np.random.default_rng(0).random(len(coords)).astype(np.float32)
    many = PatchScores(coords, 256, coords[:, ::-1] // 256, attention, mpp=0.25)
    start = time.perf_counter()
    path = write_geojson(many, tmp_path / "many.geojson")
    print(f"{len(coords)} tiles in {time.perf_counter() - start:.2f} s")
    with path.open() as file:
        assert sum(line.startswith('{"type":"Feature",') for line in file) == len(coords)
