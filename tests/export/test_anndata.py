"""A run as AnnData and SpatialData, read by those libraries, and back as features."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.errors import ExportError, FeatureError
from napari_2dmamba.export.exporting import export_run
from napari_2dmamba.export.formats import FORMATS
from napari_2dmamba.export.run_folder import save_run
from napari_2dmamba.features.files import describe_features, read_features, write_features
from napari_2dmamba.features.on_slide import features_on
from napari_2dmamba.slide import Slide, open_slide

from .material import ATTENTION, COORDS, SIZE, attention_map, classification
from .test_record import BAG, GRID, record_of

anndata = pytest.importorskip("anndata")


def saved(slide: Slide, folder: Path, *, kept: bool = True) -> Path:
    features = write_features(BAG, folder / "features.h5") if kept else None
    return save_run(
        folder / "run", record_of(slide, features=features), grid=GRID,
        prediction=classification(), maps=[attention_map()],
    )  # fmt: skip


def test_patches_lie_where_they_lay_and_come_back_as_features(slide: Slide, tmp_path) -> None:
    (path,) = export_run(saved(slide, tmp_path), formats=("h5ad",), out=tmp_path / "x")
    table = anndata.read_h5ad(path)
    np.testing.assert_array_equal(table.X, BAG.features)
    np.testing.assert_array_equal(table.obs["attention"], ATTENTION)
    np.testing.assert_array_equal(table.obsm["spatial"], COORDS + SIZE / 2)  # centres, level 0
    np.testing.assert_array_equal(table.obsm["spatial_um"], (COORDS + SIZE / 2) * 0.5)
    (library,) = table.uns["spatial"].values()
    picture, scale = library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"]
    for x, y in table.obsm["spatial"] * scale:  # as squidpy looks the patches up
        if x < picture.shape[1]:
            np.testing.assert_allclose(picture[int(y), int(x)], (120, 60, 160), atol=2)
    assert library["scalefactors"]["spot_diameter_fullres"] == SIZE
    about = json.loads(table.uns["napari_2dmamba"])
    assert about["maps"]["attention"]["colormap"] == "viridis"
    assert about["record"]["model"]["checkpoint_sha256"] is None
    assert str(tmp_path) not in table.uns["napari_2dmamba"]
    bag = features_on(slide, path)
    np.testing.assert_array_equal(bag.features, BAG.features)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert (bag.patch_size_level0, bag.patch_size, bag.mpp) == (SIZE, 50, 1.0)
    assert (bag.encoder, bag.slide_id) == ("stain-texture-v1", slide.fingerprint)
    assert describe_features(path)["feature_size"] == 2


def test_another_slides_store_is_refused(slide: Slide, slide_file: Path, tmp_path) -> None:
    (path,) = export_run(saved(slide, tmp_path), formats=("h5ad",), out=tmp_path / "x")
    other = tmp_path / "other.ome.tif"
    other.write_bytes(slide_file.read_bytes() + b" ")
    with open_slide(other) as another, pytest.raises(FeatureError, match="another slide"):
        features_on(another, path)


def test_scores_alone_are_no_features(slide: Slide, tmp_path) -> None:
    folder = saved(slide, tmp_path, kept=False)
    (path,) = export_run(folder, formats=("h5ad",), out=tmp_path / "x")
    assert anndata.read_h5ad(path).shape == (10, 0)
    with pytest.raises(FeatureError, match="scores and no features"):
        read_features(path)


def test_changed_features_are_not_exported(slide: Slide, tmp_path) -> None:
    folder = saved(slide, tmp_path)
    changed = type(BAG)(BAG.features + 1, COORDS, SIZE, encoder="stain-texture-v1")
    write_features(changed, tmp_path / "features.h5")
    with pytest.raises(ExportError, match="was changed since the run"):
        export_run(folder, formats=("h5ad",), out=tmp_path / "x")
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())


def test_a_missing_library_is_named_before_anything_is_written(
    slide: Slide, tmp_path, monkeypatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"napari-2dmamba\[spatialdata\]"):
        export_run(tmp_path, formats=("csv", "spatialdata"))
    assert FORMATS["csv"].require_library() is None


def test_spatialdata_reads_the_store(slide: Slide, tmp_path) -> None:
    spatialdata = pytest.importorskip(
        "spatialdata", reason="the extra spatialdata is not installed"
    )
    (path,) = export_run(saved(slide, tmp_path), formats=("spatialdata",), out=tmp_path / "x")
    store = spatialdata.read_zarr(path)
    assert set(store.coordinate_systems) == {"global", "um"}
    for name, um in (("patches", 0.5), ("map-attention", 0.5)):
        for system, unit in (("global", 1.0), ("um", um)):
            extent = spatialdata.get_extent(store[name], coordinate_system=system)
            assert extent["x"] == pytest.approx((0, 400 * unit))
            assert extent["y"] == pytest.approx((0, 300 * unit))
    whole = spatialdata.get_extent(store["slide"], coordinate_system="um")
    assert whole["x"] == pytest.approx((0, 437 * 0.5), rel=1e-3)
    np.testing.assert_array_equal(np.asarray(store["map-attention"])[0], attention_map().values)
    joined = spatialdata.get_element_instances(store["patches"])
    np.testing.assert_array_equal(joined, store["table"].obs["patch"])
    np.testing.assert_array_equal(store["table"].obs["attention"], ATTENTION)
    bag = features_on(slide, path)
    np.testing.assert_array_equal(bag.features, BAG.features)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert str(tmp_path) not in (path / "zarr.json").read_text()
    assert sorted(os.listdir(path.parent)) == [path.name]
