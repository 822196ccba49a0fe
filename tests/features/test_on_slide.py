"""Features of other tools on their slide: every value from who says it, and no other slide's."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from napari_2dmamba.cli.main import main
from napari_2dmamba.errors import CheckpointError, FeatureError, GridError
from napari_2dmamba.features import (
    FeatureBag,
    FeatureFileSettings,
    MissingFeatureFactsError,
    read_features,
    write_features,
)
from napari_2dmamba.features.files import features_named_like
from napari_2dmamba.features.lattice import laid_out, overlap_of, step_of
from napari_2dmamba.features.on_slide import features_on
from napari_2dmamba.models import read_header
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunSettings, run
from napari_2dmamba.sample import demo_checkpoint, demo_rivals, sample_slide
from napari_2dmamba.slide import Slide, open_slide
from tests.material import shared

COORDS = np.array([(x, y) for y in range(512, 2048, 256) for x in range(0, 1024, 256)], np.int64)
FEATURES = np.random.default_rng(1).normal(size=(len(COORDS), 102)).astype(np.float32)


@pytest.fixture(scope="module")
def slide() -> Iterator[Slide]:
    """9216 x 7168 px at 0.5 µm, called synthetic-he.tif."""
    with open_slide(sample_slide()) as opened:
        yield opened


@pytest.fixture(scope="module")
def trained() -> Any:
    """256 px at 0.5 µm/px."""
    return read_header(demo_checkpoint())


def h5(path: Path, coords: Any = COORDS, root: Any = None, **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = FEATURES[: len(coords)], coords
        file["coords"].attrs.update(attributes)
        file.attrs.update(root or {})
    return path


def test_patches_at_one_place_are_told(slide: Slide, tmp_path: Path) -> None:
    """As CLAM writes them where contours lie in each other; models without a grid count them."""
    coords = COORDS.copy()
    coords[[5, 9, 20]] = coords[[2, 2, 17]]
    bag = features_on(slide, h5(tmp_path / "d.h5", coords, patch_size_level0=256, patch_size=256))
    (said,) = bag.source["remarks"]
    assert said.startswith("3 of 24 patches of the features file lie exactly where another one")
    alone = features_on(slide, h5(tmp_path / "a.h5", patch_size_level0=256, patch_size=256))
    assert "remarks" not in alone.source


@pytest.mark.parametrize(("unit", "per_px"), [("um", 0.5), (None, 0.5), (None, 1.0), ("px", 1.0)])
def test_coordinates_of_stamp_without_a_unit(
    unit: str | None, per_px: float, slide: Slide, tmp_path: Path
) -> None:
    """Tiles of 128 µm are 256 px wide here, and as far apart; in µm they lie 128 apart."""
    stated = {} if unit is None else {"unit": unit}
    path = h5(
        tmp_path / "s.h5", COORDS * per_px, root={"stamp_version": "2.1.0", "tile_size_um": 128.0,
        "tile_size_px": 256, **stated},
    )  # fmt: skip
    bag = features_on(slide, path)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert (bag.patch_size_level0, bag.mpp) == (256, 0.5)
    told = any("taken for µm" in one for one in bag.source.get("remarks", ()))
    assert told == (unit is None and per_px == 0.5)
    if unit == "px":  # half a tile apart, as the file says, though they are 128 µm wide
        with h5py.File(path, "r+") as file:
            file["coords"][:] = COORDS // 2
        np.testing.assert_array_equal(features_on(slide, path).coords, COORDS // 2)


def case(name: str) -> Path:
    return shared(f"cases/{name}")


@pytest.mark.parametrize(
    "name", ["clam_features_noattrs.h5", "dict_noattr_grad.pt", "dict_numpy.pt"]
)
def test_what_a_file_leaves_open_comes_from_the_checkpoint(
    name: str, slide: Slide, trained: Any
) -> None:
    bag = features_on(slide, case(f"features/{name}"), trained=trained)
    assert (bag.patch_size_level0, bag.patch_size, bag.mpp) == (256, 256, 0.5)
    assert tuple(bag.coords[0]) == (2304, 768)
    assert bag.source["taken_from"] == {
        "slide_mpp": "the slide",
        "patch_size_level0": "the checkpoint, since the features file does not say it",
        "patch_size": "the checkpoint, since the features file does not say it",
        "mpp": "the patches' size on level 0 and the slide's µm per pixel",
    }
    assert "256 px on level 0 were taken from the checkpoint" in bag.source["remarks"][0]


def test_a_checkpoint_that_the_coordinates_contradict_is_not_believed(
    tmp_path: Path, slide: Slide, trained: Any
) -> None:
    path = h5(tmp_path / "a.h5")
    other = dataclasses.replace(trained, patch_size=512)
    with pytest.raises(
        MissingFeatureFactsError, match="512 px wide, but lie 256 px apart"
    ) as error:
        features_on(slide, path, trained=other)
    assert error.value.missing == ("feature_patch_size", "feature_mpp")
    with pytest.raises(MissingFeatureFactsError, match="--feature-patch-size and --feature-mpp"):
        features_on(slide, path)
    given = FeatureFileSettings(feature_patch_size=224, feature_mpp=256 * 0.5 / 224)
    bag = features_on(slide, path, trained=other, given=given)
    assert (bag.patch_size_level0, bag.patch_size) == (256, 224)
    assert bag.source["taken_from"]["patch_size"] == "given"
    half = FeatureFileSettings(feature_patch_size=512)
    bag = features_on(slide, path, trained=dataclasses.replace(trained, mpp=0.25), given=half)
    assert (bag.patch_size_level0, bag.patch_size, bag.mpp) == (256, 512, 0.25)


def test_coordinates_in_um_are_placed_by_the_slide(slide: Slide) -> None:
    for name in ("stamp20.h5", "stamp21.h5"):
        bag = features_on(slide, case(f"features/{name}"))
        assert tuple(bag.coords[0]) == (2304, 768)
        assert bag.patch_size_level0 == 256
    assert (bag.patch_size, bag.mpp) == (256, 0.5)


@pytest.mark.parametrize("unit", ["µm", "μm", "Microns", "micrometre", b"um"])
def test_units_have_many_names(tmp_path: Path, slide: Slide, unit: Any) -> None:
    for where in ({"unit": unit, "tile_size": 128.0}, {"root": {"unit": unit, "tile_size": 128.0}}):
        bag = features_on(slide, h5(tmp_path / "a.h5", COORDS * 0.5, **where))
        np.testing.assert_array_equal(bag.coords, COORDS)
        assert bag.patch_size_level0 == 256


def test_other_units(tmp_path: Path, slide: Slide) -> None:
    for unit, um in (("mm", 1e3), ("Inch", 25400.0), ("cm", 1e4), ("nm", 1e-3)):
        path = h5(tmp_path / "a.h5", COORDS * 0.5 / um, unit=unit, tile_size=128 / um)
        np.testing.assert_array_equal(features_on(slide, path).coords, COORDS)
    path = h5(tmp_path / "a.h5", unit="px", tile_size=256)
    assert features_on(slide, path).patch_size_level0 == 256
    with pytest.raises(FeatureError, match=r"coordinates in 'furlong', a unit that is not known"):
        features_on(slide, h5(tmp_path / "a.h5", unit="furlong"))


@pytest.mark.parametrize("um", [253.3, 128.3, 127.7, 100.0])
def test_patches_of_no_whole_number_of_pixels_share_no_cell(
    tmp_path: Path, slide: Slide, um: float
) -> None:
    cells = np.array([(x, y) for y in range(20) for x in range(20)])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["feats"] = np.ones((400, 3), np.float32)
        file["coords"] = (cells * um).astype(np.float32)
        file.attrs.update(unit="um", tile_size_um=um, tile_size_px=224)
    with pytest.raises(FeatureError, match="lie outside") if um > 200 else _nothing():
        bag = features_on(slide, tmp_path / "a.h5")
        laid, said = laid_out(bag, uses_grid=True, shared_cells="refuse")
        assert said == ()
        found = (laid.coords - laid.coords.min(0)) // laid.cell_size
        np.testing.assert_array_equal(found, cells)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_the_slide_says_what_a_nominal_magnification_does_not() -> None:
    with open_slide(sample_slide(), mpp=0.325) as slide:
        bag = features_on(slide, case("features/trident_mpp0325.h5"))
        assert (bag.patch_size_level0, bag.patch_size, bag.mpp) == (256, 256, 0.325)
        with pytest.raises(CheckpointError, match=r"0\.5 µm/px, and these .* 0\.325 µm/px"):
            run(slide, demo_checkpoint(), features=case("features/trident_mpp0325.h5"))


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"level0_width": 18432, "level0_height": 14336}, r"18432 x 14336 px, and .*9216 x 7168"),
        ({"level0_width": 9216, "level0_height": 7169}, r"9216 x 7169 px, and .*9216 x 7168"),
        ({"level_dim": [4608, 3584], "downsample": [4.0, 4.0]}, "18432 x 14336 px"),
        ({"slide_mpp": 0.25}, r"of 0\.25 µm per pixel, and .* has 0\.5"),
        ({"level0_magnification": 40}, r"of 40x \(about 0\.25 µm per pixel\), and .* has 0\.5"),
        ({"name": "another"}, r"of the slide 'another', and this one is called 'synthetic-he.tif'"),
        ({"slide_fingerprint": "f" * 32}, "another slide than synthetic-he.tif"),
        ({"mpp": 0.25}, r"have 0\.25 µm per pixel, and on this slide they have 0\.5"),
    ],
)
def test_features_of_another_scan_are_refused_with_both_values(
    tmp_path: Path, slide: Slide, attributes: Any, sentence: str
) -> None:
    path = h5(tmp_path / "a.h5", patch_size=256, patch_size_level0=256, **attributes)
    with pytest.raises(FeatureError, match=sentence):
        features_on(slide, path)


def test_the_case_of_another_scan_is_refused(slide: Slide) -> None:
    with pytest.raises(FeatureError, match=r"18432 x 14336 px, and .* 9216 x 7168 px"):
        features_on(slide, case("features/trident_40x_on_20x.h5"))


@pytest.mark.parametrize(
    ("attributes", "remarks"),
    [
        ({"name": "Synthetic-HE.svs"}, 0),
        ({"level_dim": [2304, 1792], "downsample": [4.0, 4.0], "name": "synthetic-he"}, 0),
        ({"name": "anonymous-17", "level0_width": 9216, "level0_height": 7168}, 1),
        ({"slide_mpp": 0.4990, "level0_magnification": 20}, 0),
    ],
)
def test_features_of_this_scan_are_taken(
    tmp_path: Path, slide: Slide, attributes: Any, remarks: int
) -> None:
    path = h5(tmp_path / "a.h5", patch_size=256, patch_size_level0=256, **attributes)
    bag = features_on(slide, path)
    assert (bag.mpp, len(bag.source.get("remarks", []))) == (0.5, remarks)


def test_a_bag_of_slideflow_has_its_coordinates_beside_it(tmp_path: Path, slide: Slide) -> None:
    torch.save(torch.from_numpy(FEATURES), tmp_path / "s.pt")
    np.savez(tmp_path / "s.index.npz", COORDS + 128)  # centres
    with pytest.raises(MissingFeatureFactsError):
        features_on(slide, tmp_path / "s.pt")
    for width in (128, "20x"):
        said = {"extractor": {"class": "a.b.Uni"}, "tile_px": 256, "tile_um": width}
        (tmp_path / "bags_config.json").write_text(json.dumps(said))
        bag = features_on(slide, tmp_path / "s.pt")
        np.testing.assert_array_equal(bag.coords, COORDS)
        assert (bag.patch_size_level0, bag.patch_size, bag.mpp) == (256, 256, 0.5)
        assert bag.source["layout"] == "Slideflow"


def test_ours_on_its_own_slide_and_not_on_another(tmp_path: Path, slide: Slide) -> None:
    bag = FeatureBag(FEATURES, COORDS, 256, 256, 0.5, 0.5, "uni", slide.fingerprint)
    path = write_features(bag, tmp_path / "a.H5")
    again = features_on(slide, path)
    assert again.source == bag.source
    assert again.mpp == 0.5
    other = write_features(dataclasses.replace(bag, slide_id="0" * 32), tmp_path / "b.h5")
    with pytest.raises(FeatureError, match="its content differs: 00000000, not"):
        features_on(slide, other)


def test_the_command_takes_what_the_file_does_not_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = next(path for path in demo_rivals() if "abmil" in path.name)
    path = h5(tmp_path / "a.h5", COORDS * 2)  # 512 apart: not what the checkpoint says
    command = ["run", str(sample_slide()), "--checkpoint", str(model), "--json"]
    command += ["--out", str(tmp_path / "out"), "--features"]
    assert main([*command, str(path)]) == 1
    assert "--feature-patch-size-level0" in json.loads(capsys.readouterr().out)["error"]
    assert main([*command, str(path), "--feature-patch-size-level0", "256"]) == 0
    capsys.readouterr()
    record = json.loads((tmp_path / "out" / "synthetic-he" / "run.json").read_text())
    assert record["features"]["source"]["taken_from"]["patch_size_level0"] == "given"
    assert main([*command, str(tmp_path / "tpyo.h5")]) == 1
    assert "tpyo.h5 is not there" in capsys.readouterr().err


def test_overlapping_patches_are_said_and_all_of_them_shown(slide: Slide) -> None:
    path = case("features/trident_overlap.h5")
    rival = next(one for one in demo_rivals() if "abmil" in one.name)
    result = run(slide, rival, features=path)
    assert len(result.bag) == len(result.prediction.attention) == 1784
    said = [w for w in result.record.warnings if "overlap" in w]
    assert said[0].startswith(
        "the patches overlap: they are 256 px wide on level 0 and lie 128 px apart"
    )
    shown = result.attention_map
    assert (shown.patch_size_level0, np.isfinite(shown.values).sum()) == (128, 1784)
    cells = shown.cells_of(result.bag.coords, 256)
    np.testing.assert_array_equal(
        shown.values[cells[:, 0], cells[:, 1]], result.prediction.attention.astype(np.float32)
    )
    assert shown.origin == tuple(result.bag.coords.min(0) + 64)  # the middle of each patch


@pytest.mark.parametrize(
    ("shared_cells", "patches", "cell"),
    [("last", 1784, 256), ("mean", 0, 256), ("finer", 1784, 128)],
)
def test_models_of_a_grid_are_offered_what_they_can_do(
    shared_cells: str, patches: int, cell: int, slide: Slide
) -> None:
    path = case("features/trident_overlap.h5")
    with pytest.raises(GridError, match="--shared-cells"):
        run(slide, demo_checkpoint(), features=path)
    settings = RunSettings(model=ModelSettings(shared_cells=shared_cells, device="cpu"))
    result = run(slide, demo_checkpoint(), settings, features=path)
    assert result.attention_map.patch_size_level0 == cell
    assert any("patches" in w and "cell" in w for w in result.record.warnings)
    if patches:
        assert len(result.bag) == patches
    else:  # by hand: the mean over the patches whose corner lies in a cell
        given = features_on(slide, path)
        low = given.coords.min(0)
        cells = (given.coords - low) // 256
        at = np.flatnonzero((cells == (result.bag.coords[7] - low) // 256).all(1))
        assert 1 < len(at) <= 4
        expected = given.features[at].astype(np.float64).mean(0)
        np.testing.assert_allclose(result.bag.features[7], expected, rtol=1e-6)
        assert len(result.bag) == len(result.grid) == len(np.unique(cells, axis=0))


def test_the_step_of_lattices_that_begin_anew_for_every_piece_of_tissue() -> None:
    pieces = np.concatenate([COORDS + np.array(by) for by in ([0, 0], [5000, 37], [113, 4011])])
    assert step_of(pieces) == 256
    assert overlap_of(pieces, 256) == 0
    assert overlap_of(pieces, 512) == 256
    assert step_of(COORDS[:1]) is None
    assert overlap_of(COORDS[:1], 512) == 0


def test_capitals(slide: Slide) -> None:
    bag = features_on(slide, case("features/UPPER.H5"))
    assert (len(bag), bag.patch_size_level0, bag.mpp) == (446, 256, 0.5)


def test_features_of_a_folder_are_found_by_the_slide_s_name(tmp_path: Path) -> None:
    for name in ("x.h5", "y.ome.h5", "z.PT", "w.h5", "w.H5"):
        (tmp_path / name).touch()
    assert features_named_like(Path("a/x.ome.tif"), tmp_path).name == "x.h5"
    assert features_named_like(Path("x.SVS"), tmp_path).name == "x.h5"
    assert features_named_like(Path("y.ome.tif"), tmp_path).name == "y.ome.h5"
    assert features_named_like(Path("z.tif"), tmp_path).name == "z.PT"
    with pytest.raises(FeatureError, match=r"both w\.H5 and w\.h5"):
        features_named_like(Path("w.tif"), tmp_path)
    with pytest.raises(FeatureError, match=r"no features of q\.tif"):
        features_named_like(Path("q.tif"), tmp_path)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"patch_size_level0": -5}, "says patch_size_level0 -5"),
        ({"patch_size_level0": np.inf}, "says patch_size_level0 inf"),
        ({"patch_size_level0": 256, "target_magnification": 0}, "says target_magnification 0"),
        ({"patch_size_level0": 1e12}, "a number from 0.5 to 1e\\+06"),
        ({"patch_size_level0": 256, "slide_mpp": np.nan}, "says slide_mpp nan"),
        ({"unit": "um", "tile_size": -1.0}, "says tile_size -1"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(
    tmp_path: Path, slide: Slide, attributes: Any, sentence: str
) -> None:
    with pytest.raises(FeatureError, match=sentence):
        features_on(slide, h5(tmp_path / "a.h5", **attributes))
    told = {"patch_size_level0": "wide", "patch_size": 256}
    path = h5(tmp_path / "b.h5", root={"napari_2dmamba": json.dumps(told)})
    with pytest.raises(FeatureError, match="says patch_size_level0 'wide'"):
        features_on(slide, path)


def test_files_that_promise_more_than_they_hold(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "space.h5", "w") as file:
        file.create_dataset("features", shape=(10**7, 4096), dtype="f4", chunks=(1024, 64))
        file["coords"] = COORDS
    with pytest.raises(FeatureError, match=r"claims 163\.8 GB and 0 bytes of it are there"):
        read_features(tmp_path / "space.h5", patch_size_level0=256)
    with h5py.File(tmp_path / "chunk.h5", "w") as file:
        file.create_dataset("features", (4, 4), "f4", chunks=(30000, 30000), maxshape=(None, None))
        file["coords"] = COORDS[:4]
    with pytest.raises(FeatureError, match=r"pieces of 3\.6 GB"):
        read_features(tmp_path / "chunk.h5", patch_size_level0=256)
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(4096))
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.create_dataset("features", (4, 4), "f4", external=[(str(secret), 0, 64)])
        file["coords"] = COORDS[:4]
    with pytest.raises(FeatureError, match="lie in other files, which are not followed"):
        read_features(tmp_path / "outside.h5", patch_size_level0=256)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["features"] = h5py.ExternalLink("space.h5", "features")
        file["coords"] = COORDS
    with pytest.raises(FeatureError, match="lies in another file"):
        read_features(tmp_path / "link.h5", patch_size_level0=256)


def test_numbers_too_large_for_a_model_are_counted(tmp_path: Path) -> None:
    values = FEATURES.astype(np.float64)
    values[[3, 5]] = 1e300
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = values, COORDS
    with pytest.raises(FeatureError, match=r"2 of 24 patches are too large .* first of patch 3"):
        read_features(tmp_path / "a.h5", patch_size_level0=256)


@pytest.mark.parametrize(
    "said",
    [
        {"slide_dimensions": [9000, 7168]},
        {"wsi_width": 9216, "wsi_height": 7000},
        {"base_mpp": 0.25},
        {"MPP_level0": "0,25"},
        {"objective_power": "80x"},
        {"slide_path": "/a/b/other.svs"},
        {"WSI": "other"},
        {"slide_md5": "f" * 32},
        {"slide_checksum": "sha256:" + "f" * 64},
    ],
)
def test_another_slide_is_refused_whatever_the_attribute_is_called(
    slide: Slide, tmp_path: Path, said: dict[str, Any]
) -> None:
    path = h5(tmp_path / "a.h5", patch_size_level0=256, **said)
    with pytest.raises(FeatureError, match=r"holds features of (a slide|the slide 'other)"):
        features_on(slide, path)


def test_the_same_slide_by_the_same_names_is_taken(slide: Slide, tmp_path: Path) -> None:
    said = {
        "slide_dimensions": [9216, 7168], "native_mpp": "0.5 um/px", "slide_magnification": "20x",
        "wsi_name": "synthetic-he", "slide_md5": hashlib.md5(slide.path.read_bytes()).hexdigest(),
    }  # fmt: skip
    bag = features_on(slide, h5(tmp_path / "a.h5", patch_size_level0=256, **said))
    np.testing.assert_array_equal(bag.coords, COORDS)


@pytest.mark.parametrize("name", ["coord_units", "Unit", "coordinates_units", "space"])
def test_a_unit_by_any_name_is_that_of_the_coordinates(
    slide: Slide, tmp_path: Path, name: str
) -> None:
    path = h5(tmp_path / "a.h5", COORDS * 0.5, patch_size=256, mpp=0.5, **{name: "µm"})
    bag = features_on(slide, path, trained=None)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert bag.patch_size_level0 == 256


def test_a_bare_tile_size_is_of_the_level_that_the_distance_of_patches_tells(
    slide: Slide, tmp_path: Path, trained: Any
) -> None:
    path = h5(tmp_path / "a.h5", tile_size=256)
    assert features_on(slide, path).patch_size_level0 == 256
    path = h5(tmp_path / "a.h5", tile_size=128, mpp="1,0")
    bag = features_on(slide, path)
    assert (bag.patch_size_level0, bag.patch_size, bag.mpp) == (256, 128, 1.0)
    path = h5(tmp_path / "a.h5", tile_size=128)
    with pytest.raises(MissingFeatureFactsError, match="lie 256 px apart"):
        features_on(slide, path, trained=trained)
