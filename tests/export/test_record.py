import hashlib
import json
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from shapely import LineString

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import scatter
from napari_2dmamba.export.content_hash import features_hash
from napari_2dmamba.export.json_file import as_json
from napari_2dmamba.export.record import RunRecord, read_record, write_record
from napari_2dmamba.export.record_of_run import make_record
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.files import read_features, write_features
from napari_2dmamba.models import Aggregator, CheckpointHeader
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.slide import Region, Regions, Slide, open_slide
from napari_2dmamba.slide.grid import GridSettings, PatchGrid
from tests import warm

from .material import ATTENTION, COORDS, SIZE, TISSUE, attention_map, classification, survival

GRID = PatchGrid(
    patch_size=50,
    patch_size_level0=SIZE,
    mpp=1.0,
    slide_mpp=0.5,
    canvas=(4, 5),
    coords=COORDS,
    tissue_fraction=TISSUE,
)
BAG = FeatureBag(
    np.arange(20, dtype=np.float32).reshape(10, 2), COORDS, SIZE, encoder="stain-texture-v1"
)


def record_of(slide: Slide, **more) -> RunRecord:
    parts = {"grid": GRID, "bag": BAG, "prediction": classification(),
             "settings": {"grid": GridSettings()}}  # fmt: skip
    return make_record(slide=slide, **(parts | more))


def saved(slide: Slide, folder: Path, prediction=None) -> Path:
    prediction = prediction or classification()
    signed = scatter(
        ATTENTION - 0.1, COORDS, SIZE, name="occlusion", meaning="change of logit", mpp=0.5,
        signed=True, display_range=(-0.5, 0.5),
    )  # fmt: skip
    return save_run(
        folder,
        record_of(slide, prediction=prediction),
        grid=GRID,
        prediction=prediction,
        maps=[attention_map(), signed],
        display=DisplaySettings(transform="log", clip_high=98.0, opacity=0.3),
    )


def test_a_run_with_notes_alone_brings_them_back(slide: Slide, tmp_path: Path) -> None:
    notes = Regions((Region(LineString([(1, 2), (4, 6)]), "note", "diameter"),))
    prediction = classification()
    record = record_of(slide, prediction=prediction, regions=notes)
    assert record.regions is None  # it was a run on all tissue
    save_run(tmp_path, record, grid=GRID, prediction=prediction, maps=[], regions=notes)
    found = open_run(tmp_path).regions
    assert found is not None
    (note,) = found
    assert (note.role, note.name) == ("note", "diameter")
    assert note.geometry == LineString([(1, 2), (4, 6)])


def assert_same(found, expected) -> None:
    assert type(found) is type(expected)
    for name, value in vars(expected).items():
        if isinstance(value, np.ndarray):
            assert getattr(found, name).dtype == value.dtype, name
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
        else:
            assert getattr(found, name) == value, name


def test_the_record_says_what_made_the_result(slide: Slide, tmp_path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    record = record_of(
        slide,
        checkpoint=checkpoint,
        model={"architecture": "2DMamba"},
        device_reason="no CUDA device was found",
        warnings=["background holds a quarter of the attention"],
        started=datetime.now(UTC) - timedelta(seconds=5),
    )
    assert record.slide.mpp == 0.5
    assert record.slide.mpp_source == slide.mpp_source
    assert record.slide.fingerprint == slide.fingerprint
    assert record.model.checkpoint_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert record.model.device_reason == "no CUDA device was found"
    assert record.settings["grid"]["patch_size"] == 512
    assert record.software["packages"]["torch"]
    assert 5 <= record.seconds < 60
    assert record.result.class_names == ("normal", "tumour")
    assert record.warnings == ("background holds a quarter of the attention",)
    json.dumps(record.to_json(), allow_nan=False)


def test_the_record_is_silent_about_patients_and_people(slide: Slide, tmp_path) -> None:
    slide.properties["aperio.Patient"] = "Erika Mustermann"
    text = json.dumps(record_of(slide).to_json())
    assert "Mustermann" not in text
    assert os.uname().nodename not in text


def test_features_are_known_by_their_content() -> None:
    assert features_hash(BAG) == features_hash(replace(BAG, encoder="other", source={"a": 1}))
    changed = BAG.features.copy()
    changed[3, 1] += 1e-3
    assert features_hash(BAG) != features_hash(replace(BAG, features=changed))
    assert features_hash(BAG) != features_hash(replace(BAG, coords=COORDS + 1))


def test_values_without_number_become_null() -> None:
    assert as_json({"a": np.float32("nan"), "b": (np.int64(1), float("inf"))}) == {
        "a": None,
        "b": [1, None],
    }
    assert as_json(np.array([[1, 2]])) == [[1, 2]]
    with pytest.raises(TypeError, match="no place in a JSON record"):
        as_json({"a": object()})


@pytest.mark.parametrize("make", [classification, survival])
def test_a_run_opens_again_as_it_was(slide: Slide, tmp_path, make) -> None:
    run = open_run(saved(slide, tmp_path / "out" / "run", make()))
    assert_same(run.prediction, make())
    assert_same(run.grid, GRID)
    assert [m.name for m in run.maps] == ["attention", "occlusion"]
    assert_same(run.maps[0], attention_map())
    assert run.maps[1].signed
    assert run.maps[1].display_range == (-0.5, 0.5)
    assert run.display == DisplaySettings(transform="log", clip_high=98.0, opacity=0.3)
    assert run.record.slide.fingerprint == slide.fingerprint
    assert run.find_slide() == slide.path
    run.check_slide(slide)
    assert open_run(tmp_path / "out" / "run" / "run.json").grid.canvas == (4, 5)


@pytest.mark.parametrize("task", ["classification", "survival"])
def test_what_a_real_model_says_opens_again(slide: Slide, tmp_path, task) -> None:
    torch.manual_seed(0)
    config = Mamba2DConfig(2, 3, d_model=16, d_state=4)
    header = CheckpointHeader(
        architecture="2dmamba", config=asdict(config), task=task, canvas=(3, 4),
        class_names=("a", "b", "c"), encoder="stain-texture-v1",
    )  # fmt: skip
    prediction = Aggregator(Mamba2DMIL(config), header).predict(BAG)
    run = open_run(saved(slide, tmp_path, prediction))
    for name in ("logits", "probabilities", "hazards", "survival", "attention", "cells"):
        np.testing.assert_array_equal(getattr(run.prediction, name), getattr(prediction, name))
    assert run.prediction.risk == prediction.risk
    assert run.prediction.background_mass == prediction.background_mass
    assert run.prediction.extra == prediction.extra
    assert run.prediction.canvas == prediction.canvas


def test_features_of_a_run_are_found_and_known(slide: Slide, tmp_path) -> None:
    path = write_features(BAG, tmp_path / "features.h5")
    save_run(
        tmp_path / "run", record_of(slide, features=path), grid=GRID,
        prediction=classification(), maps=[attention_map()],
    )  # fmt: skip
    run = open_run(tmp_path / "run")
    assert run.find_features() == path
    assert run.record.features.content_sha256 == features_hash(read_features(path))
    path.unlink()
    assert run.find_features() is None


def test_other_programs_find_the_scores(slide: Slide, tmp_path) -> None:
    table = pq.read_table(saved(slide, tmp_path) / "scores.parquet").to_pydict()
    np.testing.assert_array_equal(np.float32(table["attention"]), ATTENTION)
    np.testing.assert_array_equal(np.float32(table["occlusion"]), ATTENTION - np.float32(0.1))


def test_slide_and_run_may_move_together(slide_file: Path, tmp_path) -> None:
    first = tmp_path / "first" / "slides"
    first.mkdir(parents=True)
    (first / "a.tif").write_bytes(slide_file.read_bytes())
    with open_slide(first / "a.tif") as slide:
        saved(slide, tmp_path / "first" / "runs" / "a")
    (tmp_path / "first").rename(tmp_path / "second")
    run = open_run(tmp_path / "second" / "runs" / "a")
    assert run.find_slide() == tmp_path / "second" / "slides" / "a.tif"
    (tmp_path / "second" / "slides" / "a.tif").rename(tmp_path / "second" / "runs" / "a.tif")
    assert run.find_slide() == tmp_path / "second" / "runs" / "a.tif"
    (tmp_path / "second" / "runs" / "a.tif").unlink()
    with pytest.raises(ExportError, match=r"the slide a\.tif .* choose where it is now"):
        run.find_slide()


def test_another_slide_is_refused(slide: Slide, slide_file: Path, tmp_path) -> None:
    run = open_run(saved(slide, tmp_path / "run"))
    other = tmp_path / "other.ome.tif"
    data = bytearray(slide_file.read_bytes())
    data[-20] ^= 1
    other.write_bytes(data)
    with open_slide(other) as wrong, pytest.raises(ExportError, match=r"other\.ome\.tif is not"):
        run.check_slide(wrong)


def test_saving_again_replaces_the_run_and_nothing_else(slide: Slide, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    saved(slide, tmp_path)
    saved(slide, tmp_path, survival())
    assert open_run(tmp_path).prediction.task == "survival"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "arrays.safetensors", "notes.txt", "run.json", "scores.parquet",
    ]  # fmt: skip


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif how == "bits":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        record = json.loads(path.read_text())
        if how == "newer":
            record["schema_version"] = 99
        elif how == "other":
            record = {"hello": 1}
        elif how == "list":
            record = [1]
        elif how == "field":
            record["saved"]["grid"]["canvas"] = "wide"
        elif how == "display":
            record["display"] = 3
        else:
            del record[how]
        path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        ("run.json", "missing", "cannot be read"),
        ("run.json", "cut", "damaged"),
        ("run.json", "empty", "damaged"),
        ("run.json", "newer", "update napari-2dmamba"),
        ("run.json", "other", "not the record of a run"),
        ("run.json", "list", "not the record of a run"),
        ("run.json", "field", "damaged"),
        ("run.json", "display", "damaged"),
        ("run.json", "saved", "damaged"),
        ("run.json", "slide", "damaged"),
        ("run.json", "checksums", "damaged"),
        ("arrays.safetensors", "missing", "missing from the saved run"),
        ("arrays.safetensors", "cut", "checksum"),
        ("arrays.safetensors", "bits", "checksum"),
        ("arrays.safetensors", "empty", "checksum"),
    ],
)
def test_a_damaged_run_is_named_in_one_sentence(slide, tmp_path, name, how, says) -> None:
    damage(saved(slide, tmp_path) / name, how)
    with pytest.raises(ExportError, match=says) as caught:
        open_run(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_no_run_is_named(tmp_path) -> None:
    with pytest.raises(ExportError, match="choose the folder of a saved run"):
        open_run(tmp_path / "nothing")


def test_a_path_below_a_file_is_refused(slide: Slide, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="choose a folder you may write to"):
        saved(slide, tmp_path / "file" / "run")


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from napari_2dmamba.errors import ExportError
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.export.geojson import write_geojson
from napari_2dmamba.export.patches import PatchScores
from napari_2dmamba.export.picture import write_png
from napari_2dmamba.export.json_file import write_json
from napari_2dmamba.export.tables import write_table

rng = np.random.default_rng(0)
coords = np.stack([np.arange(9000), np.arange(9000)], 1) * 256
scores = PatchScores(coords, 256, coords // 256, rng.random(9000).astype(np.float32))
noise = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # as a disk that fills up midway

def png(path):
    with atomic_write(path) as part:
        write_png(part, [noise], 200, 200)

folder = Path(sys.argv[1])
for write in (
    lambda: write_geojson(scores, folder / "a.geojson"),
    lambda: write_table(scores, folder / "a.csv"),
    lambda: write_table(scores, folder / "a.parquet"),
    lambda: write_json({"text": "x" * 30000}, folder / "a.json"),
    lambda: png(folder / "a.png"),
):
    try:
        write()
    except ExportError as error:
        print(error)
"""


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path) -> None:
    names = ["a.geojson", "a.csv", "a.parquet", "a.json", "a.png"]
    for name in names:
        (tmp_path / name).write_text("old")
    done = warm.python("-c", FULL_DISK, str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(tmp_path / name) for name in names]
    assert all("cannot be written" in line for line in lines), lines
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_text() == "old" for name in names)


def test_a_record_alone_can_be_written_and_read(slide: Slide, tmp_path) -> None:
    record = record_of(slide)
    path = tmp_path / "deep" / "record.json"
    assert read_record(write_record(record, path, full_paths=True)) == record
    bare = read_record(write_record(record, path))
    assert bare == record.without_paths()
    assert bare.slide.path is None
