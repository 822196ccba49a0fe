"""Feature files of ours, CLAM's, TRIDENT's and STAMP's; and those that must be refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features import FeatureBag, read_features, write_features
from napari_2dmamba.features.files import describe_features
from tests.material import shared

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(5, 8)).astype(np.float32)
COORDS = np.array([[0, 0], [512, 0], [1024, 512], [0, 1024], [512, 1024]])


def h5(path: Path, coords_attrs: dict[str, Any] | None = None, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, data=data)
        if coords_attrs:
            file["coords"].attrs.update(coords_attrs)
    return path


def bag(**changes: Any) -> FeatureBag:
    known: dict[str, Any] = {
        "features": FEATURES,
        "coords": COORDS.astype(np.int64),
        "patch_size_level0": 1013,
        "patch_size": 512,
        "mpp": 0.5001,
        "slide_mpp": 0.2528,
        "encoder": "stain-texture-v1",
        "slide_id": "0123abcd",
        "source": {"made_of": {"patches": 5}, "device": "cpu"},
    }
    return FeatureBag(**{**known, **changes})


@pytest.mark.parametrize("name", ["a.h5", "a.parquet"])
def test_what_is_written_comes_back(tmp_path, name):
    written = bag()
    path = write_features(written, tmp_path / name)
    again = read_features(path)
    assert (again.features == written.features).all()
    assert again.features.dtype == np.float32
    assert (again.coords == written.coords).all()
    for name in ("patch_size_level0", "patch_size", "mpp", "slide_mpp", "encoder", "slide_id"):
        assert getattr(again, name) == getattr(written, name)
    assert again.source == written.source
    assert again.path == path
    assert list(tmp_path.iterdir()) == [path]


def test_other_tools_find_what_they_look_for(tmp_path):
    path = write_features(bag(), tmp_path / "a.h5")
    with h5py.File(path) as file:
        assert file["features"].shape == (5, 8)
        assert file["coords"].dtype == np.int64
        attributes = dict(file["coords"].attrs)
        assert "napari-2dmamba" in json.loads(file.attrs["napari_2dmamba"])["written_by"]
    assert attributes["patch_size_level0"] == 1013
    assert attributes["patch_size"] == 512
    np.testing.assert_allclose(attributes["target_magnification"], 20, rtol=1e-3)


def test_clam_features_need_the_patch_size_that_clam_does_not_write(tmp_path):
    path = h5(tmp_path / "slide.h5", features=FEATURES, coords=COORDS.astype(np.int32))
    with pytest.raises(FeatureError, match="patch_size_level0") as error:
        read_features(path)
    assert "features (5, 8)" in str(error.value)
    assert "512 apart" in str(error.value)
    read = read_features(path, patch_size_level0=512, mpp=0.5, encoder="resnet50")
    assert (read.patch_size_level0, read.mpp, read.encoder) == (512, 0.5, "resnet50")
    assert (read.features == FEATURES).all()
    assert (read.coords == COORDS).all()


def test_clam_patch_attributes_are_understood(tmp_path):
    attrs = {"patch_size": 256, "patch_level": 1, "downsample": np.array([4.0, 4.0])}
    read = read_features(h5(tmp_path / "a.h5", attrs, features=FEATURES, coords=COORDS))
    assert (read.patch_size, read.patch_size_level0, read.mpp) == (256, 1024, None)


def test_trident_attributes_and_batch_axis_are_understood(tmp_path):
    attrs = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "slide",
        "level0_width": 5000,
    }
    path = h5(tmp_path / "a.h5", attrs, features=FEATURES[None], coords=COORDS[None])
    read = read_features(path)
    assert read.features.shape == (5, 8)
    assert (read.coords == COORDS).all()
    assert (read.patch_size, read.patch_size_level0) == (256, 512)
    assert (read.mpp, read.slide_mpp) == (0.5, 0.25)
    with pytest.raises(FeatureError, match=r"says mpp 0.5, but 0.25 was given"):
        read_features(path, mpp=0.25)


def test_stamp_coordinates_in_um_become_level0_pixels(tmp_path):
    path = h5(tmp_path / "a.h5", feats=FEATURES, coords=COORDS * 0.5)
    with h5py.File(path, "r+") as file:
        file.attrs.update(unit="um", tile_size_um=256.0, tile_size_px=224, extractor="uni")
    with pytest.raises(FeatureError, match=r"in µm.*give slide_mpp"):
        read_features(path)
    read = read_features(path, slide_mpp=0.25)
    assert (read.coords == COORDS * 2).all()
    assert (read.patch_size_level0, read.patch_size, read.encoder) == (1024, 224, "uni")
    np.testing.assert_allclose(read.mpp, 256 / 224)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_types(tmp_path, dtype):
    attrs = {"patch_size_level0": 512}
    path = h5(tmp_path / "a.h5", attrs, features=FEATURES.astype(dtype), coords=COORDS)
    np.testing.assert_allclose(read_features(path).features, FEATURES, atol=2e-3)


def test_bfloat16_as_raw_bytes_and_in_pt_files(tmp_path):
    narrow = torch.from_numpy(FEATURES).bfloat16()
    raw = narrow.view(torch.int16).numpy().view("V2")
    path = h5(tmp_path / "a.h5", {"patch_size_level0": 512}, features=raw, coords=COORDS)
    assert (read_features(path).features == narrow.float().numpy()).all()
    content = {"features": narrow, "coords": torch.from_numpy(COORDS), "patch_size_level0": 512}
    torch.save(content, tmp_path / "a.pt")
    read = read_features(tmp_path / "a.pt")
    assert (read.features == narrow.float().numpy()).all()
    assert read.patch_size_level0 == 512


def test_pt_files_run_nothing(tmp_path):
    flag = tmp_path / "flag"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (flag,))

    torch.save({"features": torch.zeros(2, 3), "coords": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(FeatureError, match=r"evil.pt cannot be read safely"):
        read_features(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(FeatureError, match="cannot be read safely"):
        read_features(tmp_path / "plain.pt")
    assert not flag.exists()
    torch.save(torch.zeros(4, 3), tmp_path / "clam.pt")
    with pytest.raises(FeatureError, match=r"holds no 'coords'.*found features"):
        read_features(tmp_path / "clam.pt")


@pytest.mark.parametrize(
    ("datasets", "sentence"),
    [
        ({"coords": COORDS}, "holds no 'features'.*found coords"),
        ({"embedding": FEATURES, "coords": COORDS}, r"found .*embedding \(5, 8\)"),
        ({"features": FEATURES}, "holds no 'coords'"),
        ({"features": FEATURES, "coords": COORDS[:4]}, r"shape \(4, 2\).*shape \(5, 2\)"),
        ({"features": FEATURES, "coords": np.c_[COORDS, COORDS]}, r"shape \(5, 4\)"),
        ({"features": FEATURES[0], "coords": COORDS}, r"shape \(8,\).*\(N, D\)"),
        ({"features": FEATURES[:0], "coords": COORDS[:0]}, "there is no patch"),
        ({"features": FEATURES * np.nan, "coords": COORDS}, "5 of 5 patches are not finite"),
        ({"features": FEATURES, "coords": COORDS - 1}, "negative"),
        ({"features": FEATURES, "coords": COORDS + 0.5}, "not whole numbers"),
        ({"features": np.array(["a"] * 5, "S"), "coords": COORDS}, "type"),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, datasets, sentence):
    path = h5(tmp_path / "odd.h5", **datasets)
    with pytest.raises(FeatureError, match=sentence) as error:
        read_features(path, patch_size_level0=512)
    assert "odd.h5" in str(error.value)


def test_features_of_several_encoders_are_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features/uni"] = FEATURES
        file["features/conch"] = FEATURES
        file["coords"] = COORDS
    with pytest.raises(FeatureError, match=r"several encoders .*uni"):
        read_features(tmp_path / "a.h5")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89HDF\r\n\x1a\n cut"])
def test_files_that_are_no_hdf5(tmp_path, content):
    (tmp_path / "bad.h5").write_bytes(content)
    with pytest.raises(FeatureError, match=r"bad.h5 cannot be read as HDF5"):
        read_features(tmp_path / "bad.h5")
    with pytest.raises(FeatureError, match="is not there"):
        read_features(tmp_path / "absent.h5")
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(FeatureError, match=r"must end in .h5"):
        read_features(tmp_path / "bad.csv")


def test_files_cut_short_anywhere_are_refused_or_read_whole(tmp_path):
    path = write_features(bag(), tmp_path / "a.h5")
    whole = path.read_bytes()
    for end in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:end])
        try:
            assert (read_features(path).features == FEATURES).all()
        except FeatureError as error:
            assert "a.h5" in str(error)  # noqa: PT017 - either outcome is right


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_features(bag(), tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_features(bag(source={"not json": object()}), path)
    assert path.read_bytes() == before
    with pytest.raises(FeatureError, match="cannot be written"):
        write_features(bag(), path / "under a file" / "b.h5")
    with pytest.raises(FeatureError, match=r"does not end in .h5"):
        write_features(bag(), tmp_path / "a.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    key=st.sampled_from(["features", "feats", "embeddings", "Features"]),
    dtype=st.sampled_from(["f2", "f4", "f8", "i4", "u1", "S3", "V2"]),
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    coords_shape=st.one_of(st.none(), st.lists(st.integers(0, 4), min_size=1, max_size=3)),
    coords_dtype=st.sampled_from(["i4", "i8", "u2", "f4", "S2"]),
    attribute=st.one_of(
        st.none(),
        st.integers(-5, 2000),
        st.floats(allow_nan=True),
        st.text(max_size=5).filter(lambda t: "\0" not in t),
    ),
)
def test_any_hdf5_is_read_or_refused_in_one_sentence(
    tmp_path, key, dtype, shape, coords_shape, coords_dtype, attribute
):
    path = tmp_path / "any.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=np.zeros(shape, dtype))
        if coords_shape is not None:
            file.create_dataset("coords", data=np.zeros(coords_shape, coords_dtype))
            if attribute is not None:
                file["coords"].attrs["patch_size_level0"] = attribute
    try:
        read = read_features(path)
    except FeatureError as error:
        assert "any.h5" in str(error)  # noqa: PT017 - either outcome is right
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert read.features.dtype == np.float32
        assert len(read.features) == len(read.coords) > 0
        assert read.patch_size_level0 > 0


def test_files_of_others_come_in_or_are_refused_with_the_reason():
    path = shared("features/TCGA-AD-6964-01Z-00-DX1_features.h5")
    with pytest.raises(
        FeatureError, match=r"feats \(777, 512\).*give patch_size_level0.*512 apart"
    ):
        read_features(path)
    read = read_features(path, patch_size_level0=512)
    assert read.features.shape == (777, 512)
    assert len(np.unique(read.coords, axis=0)) == 777
    path = shared("features/TCGA-3X-AAVA-01Z-00-DX1_features.h5")
    with pytest.raises(FeatureError, match=r"holds no 'coords'.*metadata"):
        read_features(path, patch_size_level0=512)


def test_others_can_read_the_parquet_table(tmp_path):
    import pyarrow.parquet as pq

    path = write_features(bag(), tmp_path / "a.parquet")
    rows = pq.read_table(path).to_pylist()
    assert list(rows[2]) == ["x", "y", "features"]
    assert (rows[2]["x"], rows[2]["y"]) == (1024, 512)
    np.testing.assert_array_equal(np.float32(rows[2]["features"]), FEATURES[2])


def parquet(path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def test_somebody_s_parquet_is_read_when_told_what_it_does_not_say(tmp_path):
    x, y = COORDS.T.tolist()
    path = parquet(tmp_path / "a.parquet", name=["a"] * 5, x=x, y=y, features=FEATURES.tolist())
    with pytest.raises(FeatureError, match=r"give patch_size_level0.*512 apart"):
        read_features(path)
    read = read_features(path, patch_size_level0=512)
    assert (read.coords == COORDS).all()
    assert (read.features == FEATURES).all()


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"x": [0, 1], "y": [0, 1]}, r"holds no 'features' \(N, D\): found coords \(2, 2\)"),
        ({"features": [[1.0], [2.0]]}, "holds no 'coords'"),
        ({"x": [0, 1], "y": [0, 1], "features": [[1.0], [2.0, 3.0]]}, "not all of one length"),
        ({"x": [0, 1], "y": [0, 1], "features": [[1.0], None]}, "numbers are missing"),
        ({"x": [0, 1], "y": [0, 1], "features": [["a"], ["b"]]}, "numbers of shape"),
        ({"x": [0, None], "y": [0, 1], "features": [[1.0], [2.0]]}, "coordinates are no numbers"),
    ],
)
def test_what_is_wrong_with_a_parquet_table_is_said(tmp_path, columns, sentence):
    path = parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(FeatureError, match=sentence) as error:
        read_features(path, patch_size_level0=512)
    assert "\n" not in str(error.value)


def test_a_parquet_file_cut_short_is_refused(tmp_path):
    path = write_features(bag(), tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FeatureError, match="cannot be read as Parquet"):
        read_features(path)


def test_a_description_without_the_features(tmp_path: Path) -> None:
    bag = FeatureBag(
        np.ones((3, 7), np.float32), np.zeros((3, 2), np.int64), 512, 256, 0.5, 0.25, "uni"
    )
    path = write_features(bag, tmp_path / "f.h5")
    told = {"feature_size": 7, "encoder": "uni", "patch_size": 256, "mpp": 0.5}
    assert describe_features(path) == told
    with h5py.File(tmp_path / "bare.h5", "w") as file:  # no coordinates, which are not needed
        file["features"] = np.ones((1, 3, 5), np.float32)
    unknown = {"encoder": None, "patch_size": None, "mpp": None}
    assert describe_features(tmp_path / "bare.h5") == {"feature_size": 5, **unknown}
    torch.save({"features": torch.ones(2, 4)}, tmp_path / "f.pt")
    assert describe_features(tmp_path / "f.pt") == {"feature_size": 4, **unknown}
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["other"] = np.ones(3)
    with pytest.raises(FeatureError, match=r"no 'features' \(N, D\): found other \(3,\)"):
        describe_features(tmp_path / "none.h5")
    with pytest.raises(FeatureError, match="is not there"):
        describe_features(tmp_path / "gone.h5")


def test_patches_of_a_bag_are_found_by_their_corners() -> None:
    bag = FeatureBag(
        np.arange(8, dtype=np.float32).reshape(4, 2),
        np.array([[0, 0], [256, 0], [0, 256], [256, 256]]),
        patch_size_level0=256,
    )
    some = bag.at(np.array([[256, 256], [256, 0]]))
    np.testing.assert_array_equal(some.features, [[6, 7], [2, 3]])
    assert bag.at(np.array([[1, 0]])) is bag  # not this run's: its hash will say so
