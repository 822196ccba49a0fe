"""A saved run is made again from its record, and what differs is said."""

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from shapely import box

from napari_2dmamba.cli import main
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain_slide import explain_run
from napari_2dmamba.export.exporting import export_run
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.features import FeatureFileSettings, write_features
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunSettings, run, settings_of
from napari_2dmamba.rerun import rerun
from napari_2dmamba.slide import GridSettings, Regions, open_slide
from tests.tiny import MPP, PATCH, write_checkpoint, write_slide

REGIONS = Regions.of([box(200, 200, 900, 900)], [box(300, 300, 420, 420)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a region, other settings than the defaults, and two further maps."""
    folder = tmp_path_factory.mktemp("made")
    slide = write_slide(folder / "tiny.tif")
    model = write_checkpoint(folder / "tiny.safetensors")
    settings = RunSettings(grid=GridSettings(patch_size=PATCH, target_mpp=MPP, min_tissue=0.4))
    explain_run(
        slide, model, ("provenance", "gradient-x-input"), settings=settings, regions=REGIONS,
        out=folder / "run", cache=folder / "features",
    )  # fmt: skip
    return folder


@pytest.fixture
def moved(made: Path, tmp_path: Path) -> Path:
    """A copy elsewhere: relative places still lead to everything."""
    return Path(shutil.copytree(made, tmp_path / "moved"))


def test_settings_and_regions_come_back(made: Path) -> None:
    saved = open_run(made / "run")
    assert settings_of(saved.record).grid == GridSettings(PATCH, MPP, 0.4)
    assert saved.regions is not None
    assert saved.regions.content_hash() == REGIONS.content_hash()
    assert not (made / "run" / "features").exists()
    assert saved.find_features().parent == made / "features"


def test_a_run_made_again_is_the_same_to_the_bit(moved: Path) -> None:
    found = rerun(moved / "run", out=moved / "again")
    assert {one.state for one in found.compared} == {"exact"}
    names = [one.name for one in found.compared]
    assert "map provenance (state)" in names
    assert "map gradient x input" in names
    assert found.result.slide_path == moved / "tiny.tif"
    again = open_run(moved / "again")
    np.testing.assert_array_equal(again.prediction.logits, found.saved.prediction.logits)
    assert again.regions.content_hash() == REGIONS.content_hash()


def test_a_run_is_made_again_in_batches_of_the_size_that_it_had(moved: Path) -> None:
    record = moved / "run" / "run.json"
    held = json.loads(record.read_text())
    assert held["settings"]["features"]["batch_size"] == 0
    here = held["features"]["source"]["batch_size"]
    held["features"]["source"]["batch_size"] = 5  # as a machine had it where 5 was measured
    record.write_text(json.dumps(held))
    found = rerun(moved / "run")
    assert found.result.bag.source["batch_size"] == 5
    assert {one.state for one in found.compared} == {"exact"}
    held["features"]["source"]["batch_size"] = "many"
    record.write_text(json.dumps(held))
    assert rerun(moved / "run").result.bag.source["batch_size"] == here != 5


def test_the_command_says_so_number_by_number(moved: Path, capsys) -> None:
    assert main(["rerun", str(moved / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("patches: the same to the bit (")
    assert lines[-1] == "the same within 1e-05 of its largest number"
    assert main(["rerun", str(moved / "run"), "--kept-features", "--exact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"]


def resave(folder: Path, **changes) -> None:
    """Save the run again with another prediction."""
    saved = open_run(folder)
    prediction = dataclasses.replace(saved.prediction, **changes)
    result = dataclasses.replace(saved.record.result, logits=tuple(map(float, prediction.logits)))
    save_run(
        folder, dataclasses.replace(saved.record, result=result), grid=saved.grid,
        prediction=prediction, maps=saved.maps, regions=saved.regions,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("factor", "code", "exact_code"), [(1 + 1e-7, 0, 1), (1 + 1e-3, 1, 1)], ids=["tiny", "large"]
)
def test_a_difference_is_found(moved: Path, capsys, factor, code, exact_code) -> None:
    resave(moved / "run", logits=open_run(moved / "run").prediction.logits * factor)
    kept = ["rerun", str(moved / "run"), "--kept-features"]
    assert main(kept) == code
    said = capsys.readouterr().out
    assert f"logits: {'differs' if code else 'within tolerance'} (largest difference" in said
    assert main([*kept, "--exact"]) == exact_code


def test_what_is_gone_or_changed_is_one_sentence(moved: Path, capsys) -> None:
    kept = ["rerun", str(moved / "run"), "--kept-features"]
    for file in (moved / "features").glob("*.h5"):
        file.unlink()
    assert main(kept) == 1
    said = capsys.readouterr().err
    assert "the features of the run on tiny.tif were not kept, or were moved" in said
    assert main(["rerun", str(moved / "run")]) == 0  # they are computed again
    model = moved / "tiny.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    capsys.readouterr()
    assert main(["rerun", str(moved / "run")]) == 1
    assert "is not the checkpoint of the run" in capsys.readouterr().err
    model.unlink()
    assert main(["rerun", str(moved / "run")]) == 1
    assert "put it back" in capsys.readouterr().err


def test_another_slide_in_its_place_is_refused(moved: Path, capsys) -> None:
    write_slide(moved / "tiny.tif", seed=5)
    assert main(["rerun", str(moved / "run")]) == 1
    said = capsys.readouterr().err
    assert "is not the slide of the run" in said
    (moved / "tiny.tif").unlink()
    assert main(["rerun", str(moved / "run")]) == 1
    assert "choose where it is now" in capsys.readouterr().err


def test_given_features_are_read_again_and_known_by_content(made: Path, tmp_path: Path) -> None:
    slide, model = made / "tiny.tif", made / "tiny.safetensors"
    bag = run(slide, model).bag
    write_features(bag, tmp_path / "given.h5")
    result = run(
        slide, model, features=tmp_path / "given.h5", regions=REGIONS, out=tmp_path / "run"
    )
    assert result.record.features.given
    # given features are held against regions as well: all patches that are left lie within
    x, y = result.bag.coords.T
    assert 0 < len(result.bag) < len(bag)
    assert ((x + PATCH > 200) & (x < 900) & (y + PATCH > 200) & (y < 900)).all()
    again = rerun(tmp_path / "run")
    assert {one.state for one in again.compared} == {"exact"}
    with open_slide(slide) as opened:
        read = open_run(tmp_path / "run").read_features(opened)
    np.testing.assert_array_equal(read.coords, result.bag.coords)
    changed = bag.features.copy()
    changed[(bag.coords == result.bag.coords[0]).all(axis=1)] += 1
    write_features(dataclasses.replace(bag, features=changed), tmp_path / "given.h5")
    with pytest.raises(ExportError, match="was changed since the run"):
        rerun(tmp_path / "run")


@pytest.mark.parametrize("where", ["whole", "in regions"])
@pytest.mark.parametrize("shared_cells", ["mean", "last", "finer"])
def test_features_of_another_tool_are_placed_as_they_were(
    made: Path, tmp_path: Path, shared_cells: str, where: str
) -> None:
    """Patches overlap in a file that says nothing of them: the user does, the record keeps it."""
    slide, model = made / "tiny.tif", made / "tiny.safetensors"
    bag = run(slide, model).bag
    coords = np.concatenate([bag.coords, bag.coords + np.array([PATCH // 2, 0])])
    features = np.concatenate([bag.features, bag.features[::-1]])
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file["features"], file["coords"] = features, coords
    result = run(
        slide, model, features=tmp_path / "clam.h5",
        regions=REGIONS if where == "in regions" else None, out=tmp_path / "run",
        settings=RunSettings(
            feature_file=FeatureFileSettings(feature_patch_size_level0=PATCH),
            model=ModelSettings(shared_cells=shared_cells),
        ),
    )  # fmt: skip
    assert (len(result.bag) < len(coords)) == (where == "in regions" or shared_cells == "mean")
    again = rerun(tmp_path / "run")
    assert {one.state for one in again.compared} == {"exact"}
    assert again.result.record.warnings == result.record.warnings
    with open_slide(slide) as opened:
        saved = open_run(tmp_path / "run")
        read = saved.read_features(opened)
        np.testing.assert_array_equal(read.features, result.bag.features)
        np.testing.assert_array_equal(read.coords, saved.grid.coords)
    (stored,) = export_run(saved, formats=["h5ad"], out=tmp_path / "exports")
    with h5py.File(stored) as file:
        np.testing.assert_array_equal(file["X"], result.bag.features)
