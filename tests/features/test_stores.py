"""Stores of other programs: what they say is used, what they do not say is not guessed."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely
from scipy import sparse

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.files import (
    describe_features,
    features_named_like,
    read_feature_file,
    read_features,
    require_features,
)

anndata = pytest.importorskip("anndata")
zarr = pytest.importorskip("zarr")

COORDS = np.array([[600, 100], [100, 100], [356, 356]])
X = np.arange(12, dtype=np.float32).reshape(3, 4)
TILES = {"height": 256, "width": 256, "mpp": 0.5, "base_downsample": 2.0}


def table_of(**columns) -> "anndata.AnnData":
    return anndata.AnnData(X=X, obs=pd.DataFrame(columns, index=["0", "1", "2"]))


def lazyslide_store(
    path: Path, *, names=("uni",), width=512, instances=(2, 0, 1), transform=None
) -> Path:
    """A store laid out as LazySlide 0.13 (wsidata 0.12) writes it, tiles in another order."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.attrs.update(
        {
            "spatialdata_attrs": {"version": "0.2"},
            "slide_properties": {"shape": [4000, 5000], "mpp": 0.25},
            "tile_spec": {"tiles": TILES},
        }
    )
    for name in names:
        table = table_of(tile_id=[0, 1, 2], library_id=pd.Categorical(["tiles"] * 3))
        anndata.io.write_elem(group.require_group("tables"), name, table)
        about = {"region": "tiles", "region_key": "library_id", "instance_key": "tile_id"}
        group[f"tables/{name}"].attrs.update(about)
    shapes = group.require_group("shapes/tiles")
    shapes.attrs["coordinateTransformations"] = [
        {**(transform or {"type": "identity"}), "output": {"name": "global"}}
    ]
    order = np.array(instances)
    x, y = COORDS[order].T
    wkb = shapely.to_wkb(shapely.box(x, y, x + width, y + 512)).tolist()
    rows = pa.table({"tile_id": order, "geometry": pa.array(wkb, pa.binary())})
    pyarrow.parquet.write_table(rows, path / "shapes" / "tiles" / "shapes.parquet")
    return path


def test_lazyslides_tiles_are_matched_by_their_names(tmp_path) -> None:
    path = lazyslide_store(tmp_path / "a.zarr")
    bag = read_features(path)
    np.testing.assert_array_equal(bag.coords, COORDS)
    np.testing.assert_array_equal(bag.features, X)
    assert (bag.patch_size_level0, bag.patch_size, bag.mpp, bag.slide_mpp) == (512, 256, 0.5, 0.25)
    assert bag.encoder == "uni"
    facts = read_feature_file(path).facts
    assert facts.slide_size == (5000, 4000, 0.5)
    assert describe_features(path) == {
        "feature_size": 4, "encoder": "uni", "patch_size": 256, "mpp": 0.5,
    }  # fmt: skip


def test_of_several_tables_one_is_asked_for(tmp_path) -> None:
    path = lazyslide_store(tmp_path / "a.zarr", names=("mine", "uni"))
    with pytest.raises(FeatureError, match="holds 2 tables") as refused:
        read_features(path)
    assert str(path / "tables" / "uni") in str(refused.value)
    bag = read_features(path / "tables" / "mine")
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert bag.encoder is None  # a name of the user's, and none of an encoder


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"width": 400}, "no squares of one size"),
        ({"instances": (2, 0, 0)}, "no shape of their own"),
        ({"transform": {"type": "scale", "scale": [2.0, 2.0]}}, "moved or scaled"),
    ],
)
def test_tiles_that_would_lie_elsewhere_are_refused(tmp_path, how, why: str) -> None:
    with pytest.raises(FeatureError, match=why):
        read_features(lazyslide_store(tmp_path / "a.zarr", **how))


def test_lazyslides_h5ad_holds_corners(tmp_path) -> None:
    table = table_of(tile_id=[0, 1, 2])
    table.obsm["spatial"] = COORDS.astype(float)
    table.uns["tile_spec"] = TILES
    table.uns["slide_properties"] = {"mpp": 0.25, "shape": np.array([4000, 5000])}
    table.write_h5ad(tmp_path / "a.h5ad")
    bag = read_features(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert (bag.patch_size_level0, bag.slide_mpp) == (512, 0.25)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_corners_in_obs_are_enough_and_sizes_are_asked(tmp_path, kind, suffix: str) -> None:
    table = table_of(x_level0_px=COORDS[:, 0], y_level0_px=COORDS[:, 1])
    table.X = kind(X)
    path = tmp_path / f"a{suffix}"
    if suffix == ".zarr":
        table.write_zarr(path)
    else:
        table.write_h5ad(path)
    with pytest.raises(FeatureError, match="does not say how wide its patches are"):
        read_features(path)
    bag = read_features(path, patch_size_level0=256)
    np.testing.assert_array_equal(bag.coords, COORDS)
    np.testing.assert_array_equal(bag.features, X)


def test_places_that_may_be_centres_or_corners_are_not_guessed(tmp_path) -> None:
    table = table_of()
    table.obsm["spatial"] = COORDS.astype(float)
    table.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(FeatureError, match="does not tell corners from centres"):
        read_features(tmp_path / "a.h5ad")


@pytest.mark.parametrize("dtype", ["|O", "<f4"])
def test_pickled_objects_are_refused_before_they_are_read(tmp_path, dtype: str) -> None:
    import pickle

    import numcodecs

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    obs = group.create_group("obs")
    for name, values in zip(("x_level0_px", "y_level0_px"), COORDS.T, strict=True):
        obs.create_array(name, data=values)
    (path / "X").mkdir()
    array = {
        "zarr_format": 2, "shape": [3, 4], "chunks": [3, 4], "dtype": dtype, "fill_value": None,
        "order": "C", "compressor": None, "filters": [numcodecs.Pickle().get_config()],
    }  # fmt: skip
    (path / "X" / ".zarray").write_text(json.dumps(array))
    (path / "X" / "0.0").write_bytes(pickle.dumps([[Trap()] * 4] * 3))
    with pytest.raises(FeatureError, match="pickle"):
        read_features(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("how", ["objects", "text", "link", "cut"])
def test_hostile_h5ad_is_one_sentence(tmp_path, how: str) -> None:
    path = tmp_path / "a.h5ad"
    table_of(x_level0_px=COORDS[:, 0], y_level0_px=COORDS[:, 1]).write_h5ad(path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    else:
        with h5py.File(path, "r+") as file:
            del file["X"]
            if how == "link":
                file["X"] = h5py.ExternalLink("other.h5", "/X")
            else:
                kind = h5py.string_dtype() if how == "text" else h5py.vlen_dtype(np.int32)
                file.create_dataset("X", (3, 4), kind)
    with pytest.raises(FeatureError):
        read_features(path, patch_size_level0=256)


def test_stores_are_found_beside_other_features(tmp_path) -> None:
    path = lazyslide_store(tmp_path / "case.zarr")
    assert features_named_like(Path("case.svs"), tmp_path) == path
    assert require_features(path, or_folder=True) == path
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FeatureError):
        read_features(tmp_path / "empty.zarr")
