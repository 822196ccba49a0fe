"""Cohorts in this process: what is skipped, what is done again, what a failure leaves."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from napari_2dmamba.atomic_files import process_mark
from napari_2dmamba.cohort import CohortSettings, CohortSlide, read_cohort, run_cohort
from napari_2dmamba.cohort import extract_cohort as extract
from napari_2dmamba.cohort.folders import claim, worked_on
from napari_2dmamba.cohort.settings_file import read_settings
from napari_2dmamba.cohort.status import (
    CohortReader,
    CohortSummary,
    SlideStatus,
    read_status,
    write_status,
)
from napari_2dmamba.cohort.stop_file import StopFile, StopFileReader
from napari_2dmamba.errors import CheckpointError, CohortError, FeatureError
from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunSettings, run
from napari_2dmamba.slide import GridSettings
from tests.calls import python_calls
from tests.tiny import write_checkpoint, write_slide

ALONE = CohortSettings(workers=1)


def states(summary: CohortSummary) -> dict[str, str]:
    return {row.name: row.state for row in summary.rows}


def test_a_bad_slide_is_told_and_the_others_are_done(
    scans: Path, checkpoint: Path, tmp_path: Path
) -> None:
    told: list[SlideStatus] = []
    counts: list[tuple[int, int]] = []
    summary = run_cohort(
        [scans],
        checkpoint,
        out=tmp_path,
        cohort=CohortSettings(workers=1, retries=2),
        on_status=told.append,
        on_progress=lambda done, total, message: counts.append((done, total)),
    )
    assert states(summary) == {"a.tif": "done", "broken.svs": "failed", "c.tif": "done"}
    assert summary.exit_code == 1
    assert counts[0] == (0, 3)
    assert counts[-1] == (3, 3)
    (broken,) = summary.failed
    assert "broken.svs is empty (0 bytes)" in broken.reason
    assert broken.attempts == 3
    assert [row.state for row in told if row.name == "a.tif"][:2] == ["waiting", "running"]
    assert broken.reason in Path(broken.folder, "log.txt").read_text()
    assert read_cohort(tmp_path).exit_code == 1

    alone = run(scans / "a.tif", checkpoint, out=tmp_path / "alone")
    found = summary.rows[0].result["probabilities"]
    assert list(found.values()) == alone.prediction.probabilities.tolist()
    with summary.table.open(newline="") as file:
        table = {row["slide"]: row for row in csv.DictReader(file)}
    assert table["broken.svs"]["reason"] == broken.reason
    assert float(table["a.tif"]["probability of benign"]) == found["benign"]


def test_each_slide_is_restricted_to_its_own_regions(
    scans: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def box(name: str, right: int) -> Path:
        ring = [[0, 0], [right, 0], [right, 2000], [0, 2000], [0, 0]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"type": "Feature", "geometry": shape, "properties": {}}))
        return path

    def patches(slides: list[Any], regions: Path | None) -> dict[str, int | str]:
        found = run_cohort(slides, checkpoint, out=tmp_path / "o", cohort=ALONE, regions=regions)
        return {row.name: row.result["patches"] if row.good else row.reason for row in found.rows}

    def alone(slide: Path, regions: Path) -> int:
        return len(run(slide, checkpoint, regions=regions).bag)

    slides = [scans / "a.tif", scans / "c.tif"]
    half, third = box("boxes/a.geojson", 800), box("elsewhere/some.json", 600)
    found = patches([*slides], half.parent)
    assert found["a.tif"] == alone(slides[0], half) < len(run(slides[0], checkpoint).bag)
    assert "boxes holds no regions of c.tif (c.geojson)" in str(found["c.tif"])
    box("boxes/C.geojson", 100)  # of another slide, where letters' case tells names apart
    assert "no regions of c.tif" in str(patches(slides[1:], half.parent)["c.tif"])

    listed = tmp_path / "list.csv"
    listed.write_text("slide,regions\n" + f"{slides[0]},elsewhere/some.json\n{slides[1]},\n")
    before_all = patches([listed], half)
    assert before_all == {"a.tif": alone(slides[0], third), "c.tif": alone(slides[1], half)}
    assert before_all["a.tif"] < found["a.tif"]
    status = {one.name: one for one in read_cohort(tmp_path / "o").rows}
    assert status["a.tif"].regions == str(third)  # so that it is done again within them
    kept = read_settings(tmp_path / "o")
    assert kept is not None
    assert kept.regions == str(half)
    third.unlink()
    assert "regions some.json of a.tif do not exist" in str(patches([listed], half)["a.tif"])


def test_what_is_done_is_skipped_by_content(scans: Path, checkpoint: Path, tmp_path: Path) -> None:
    work = tmp_path / "scans"
    work.mkdir()
    shutil.copy(scans / "a.tif", work / "a.tif")
    out = tmp_path / "out"

    def again(model: Path = checkpoint, **how: bool) -> SlideStatus:
        settings = CohortSettings(workers=1, **how)
        return run_cohort([work], model, out=out, cohort=settings).rows[0]

    first = again()
    arrays = Path(first.folder, "arrays.safetensors")
    made = arrays.stat().st_mtime_ns
    assert again().state == "reused"
    assert arrays.stat().st_mtime_ns == made

    moved = work / "moved"
    moved.mkdir()
    shutil.move(work / "a.tif", moved / "a.tif")
    shutil.copy(checkpoint, tmp_path / "renamed.safetensors")
    row = again(tmp_path / "renamed.safetensors")
    assert (row.state, row.slide) == ("reused", str(moved / "a.tif"))

    write_slide(moved / "a.tif", seed=5)  # another slide under the same name
    other = again()
    assert other.state == "done"
    assert Path(other.folder).name == "a"  # whoever pools by name gets what is there now
    aside = out / f"a-{first.fingerprint[:8]}"
    assert (aside / arrays.name).stat().st_mtime_ns == made
    assert read_status(aside).state == "superseded"
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        told = {row["folder"]: row["state"] for row in csv.DictReader(file)}
    assert told == {"a": "done", aside.name: "superseded"}
    assert [row.folder for row in read_cohort(out).rows] == [other.folder]

    shutil.copy(scans / "a.tif", moved / "a.tif")
    back = again()  # the former content is back: so is its result, under the plain name
    assert (back.state, Path(back.folder).name) == ("reused", "a")
    assert arrays.stat().st_mtime_ns == made
    assert read_status(out / f"a-{other.fingerprint[:8]}").state == "superseded"
    assert again(write_checkpoint(tmp_path / "other.safetensors", seed=3)).state == "done"
    assert again().state == "done"  # the other checkpoint's result has taken the place
    arrays.write_bytes(arrays.read_bytes()[:-8])
    assert again().state == "done"  # a damaged result is none
    assert again().state == "reused"
    features = next(Path(first.folder).glob("features-*.h5"))
    before = features.stat().st_mtime_ns
    assert again(fresh=True).state == "done"
    assert features.stat().st_mtime_ns != before


def test_how_fast_does_not_count_but_what_does(scans: Path, tmp_path: Path) -> None:
    def again(settings: RunSettings) -> SlideStatus:
        return extract([scans / "a.tif"], settings, out=tmp_path, cohort=ALONE).rows[0]

    assert again(RunSettings()).state == "done"
    assert again(RunSettings(features=FeatureSettings(threads=1))).state == "reused"
    assert again(RunSettings(model=ModelSettings(canvas="slide"))).state == "reused"
    assert again(RunSettings(features=FeatureSettings(unreadable="drop"))).state == "done"


def test_slides_of_one_name_keep_apart_and_keep_their_folders(tmp_path: Path) -> None:
    for seed, folder in enumerate(("x", "y")):
        (tmp_path / folder).mkdir()
        write_slide(tmp_path / folder / "s.tif", seed=seed)
    x, y = tmp_path / "x" / "s.tif", tmp_path / "y" / "s.tif"
    out = tmp_path / "out"
    first = extract([x], out=out, cohort=ALONE).rows[0]
    both = extract([y, x], out=out, cohort=ALONE).rows
    assert Path(first.folder).name == "s"
    assert [row.state for row in both] == ["done", "reused"]
    assert Path(both[0].folder).name == f"s-{both[0].fingerprint[:8]}"
    assert both[1].folder == first.folder
    new = extract([x, y], out=tmp_path / "new", cohort=ALONE).rows
    assert [Path(row.folder).name for row in new] == [f"s-{row.fingerprint[:8]}" for row in new]


def test_a_folder_of_somebody_else_is_left_alone(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Slidedat.ini").touch()
    row = extract([scans / "a.tif"], out=tmp_path, cohort=ALONE).rows[0]
    assert row.folder != str(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["Slidedat.ini"]


def test_a_folder_that_a_kill_left_without_a_status_is_taken(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "a").mkdir()
    mark = process_mark().replace(str(os.getpid()), str(gone.pid))
    (tmp_path / "a" / f".{mark}-01234567.part.status.json").touch()
    row = SlideStatus(str(tmp_path / "a.tif"))
    assert claim(tmp_path, row, "0" * 32, alone=True) == tmp_path / "a"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["status.json"]


@pytest.mark.parametrize("fingerprint", ["../../x", "\ud800", "a b", "x\n", 5])
def test_a_fingerprint_that_is_none_calls_no_folder(tmp_path: Path, fingerprint: object) -> None:
    row = SlideStatus(str(tmp_path / "a.tif"), "done", folder=str(tmp_path / "a"))
    (tmp_path / "a").mkdir()
    write_status(row)
    assert read_status(tmp_path / "a") is not None
    told = json.loads((tmp_path / "a" / "status.json").read_text())
    (tmp_path / "a" / "status.json").write_text(json.dumps(told | {"fingerprint": fingerprint}))
    assert read_status(tmp_path / "a") is None
    assert claim(tmp_path, row, "1" * 32, alone=True) == tmp_path / "a-11111111"


def test_the_manifest_mends_mpp_and_labels_the_table(tmp_path: Path) -> None:
    write_slide(tmp_path / "bare.tif", mpp=None)
    out = tmp_path / "out"
    failed = extract([tmp_path / "bare.tif"], out=out, cohort=ALONE).rows[0]
    assert "states no usable µm per pixel" in failed.reason
    assert failed.attempts == 1  # trying again cannot mend that
    (tmp_path / "list.csv").write_text("slide,label,mpp,centre\nbare.tif,tumour,0.5,Oslo\n")
    summary = extract([tmp_path / "list.csv"], out=out, cohort=ALONE)
    assert summary.exit_code == 0
    assert summary.rows[0].folder == failed.folder
    with summary.table.open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["label"], line["note: centre"], line["state"]) == ("tumour", "Oslo", "done")


def test_stopping_keeps_batches_and_the_next_run_goes_on(scans: Path, tmp_path: Path) -> None:
    from tests.cohort.conftest import SLOWLY

    seen: list[SlideStatus] = []
    slides = [scans / "a.tif", scans / "c.tif"]
    summary = extract(
        slides,
        SLOWLY,
        out=tmp_path,
        cohort=ALONE,
        on_status=seen.append,
        should_stop=lambda: bool(seen) and seen[-1].patches_done > 0,
    )
    assert summary.exit_code == 130
    assert states(summary) == {"a.tif": "stopped", "c.tif": "waiting"}
    assert list(tmp_path.glob("a/*.journal"))
    assert states(read_cohort(tmp_path)) == {"a.tif": "stopped"}
    assert extract(slides, SLOWLY, out=tmp_path, cohort=ALONE).exit_code == 0
    assert "going on from" in (tmp_path / "a" / "log.txt").read_text()


def test_a_pause_holds_every_batch_and_changes_nothing(scans: Path, tmp_path: Path) -> None:
    from tests.cohort.conftest import SLOWLY

    done: list[int] = []
    asked_in_pause: list[int] = []

    def should_pause() -> bool:
        if done and done[-1] > 0 and len(asked_in_pause) < 5:
            asked_in_pause.append(done[-1])
            return True
        return False

    summary = extract(
        [scans / "a.tif"],
        SLOWLY,
        out=tmp_path,
        cohort=ALONE,
        on_status=lambda row: done.append(row.patches_done),
        should_pause=should_pause,
    )
    assert summary.exit_code == 0
    assert len(asked_in_pause) == 5
    assert len(set(asked_in_pause)) == 1  # no batch was done meanwhile
    undisturbed = extract([scans / "a.tif"], SLOWLY, out=tmp_path / "again", cohort=ALONE)
    row, same = summary.rows[0], undisturbed.rows[0]
    with h5py.File(row.result["file"]) as one, h5py.File(same.result["file"]) as other:
        np.testing.assert_array_equal(one["features"][:], other["features"][:])
    assert row.seconds > 5 * 0.2  # the pause counts as time,
    assert row.patches_per_second > row.result["patches"] / row.seconds  # and not as work


def test_stopping_in_a_pause(scans: Path, tmp_path: Path) -> None:
    pauses: list[bool] = []
    summary = extract(
        [scans / "a.tif"],
        out=tmp_path,
        cohort=ALONE,
        should_pause=lambda: pauses.append(True) is None,
        should_stop=lambda: len(pauses) > 3,
    )
    assert summary.exit_code == 130
    assert states(summary) == {"a.tif": "stopped"}


def test_a_gate_is_open_held_or_shut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_2dmamba.cohort.stop_file._SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr("napari_2dmamba.cohort.stop_file._SECONDS_WITHOUT_SIGN", 0.5)
    stop_file = StopFile(tmp_path / "stop_file")
    reader = StopFileReader(stop_file.path)
    assert not reader.should_stop()
    stop_file.hold(True)
    began = time.monotonic()
    assert not reader.should_stop()  # the runner gives no sign any more: nobody waits for ever
    assert time.monotonic() - began >= 0.5
    stop_file.hold(False)
    assert not reader.should_stop()
    stop_file.hold(True)
    threading.Timer(0.1, stop_file.stop).start()
    assert reader.should_stop()
    assert StopFileReader(stop_file.path).should_stop()


def test_the_encoder_is_loaded_once_for_all_slides(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_2dmamba.features import encoder

    loaded: list[str] = []
    load = encoder.load_encoder

    def counting(name: str, *args: Any, **options: Any) -> Any:
        loaded.append(name)
        return load(name, *args, **options)

    monkeypatch.setattr(encoder, "load_encoder", counting)
    assert extract([scans / "a.tif", scans / "c.tif"], out=tmp_path, cohort=ALONE).exit_code == 0
    assert loaded == ["stain-texture-v1"]
    extract([scans / "a.tif"], out=tmp_path / "again", cohort=ALONE)
    assert len(loaded) == 2  # nothing is held beyond the cohort's end


def test_the_folder_says_what_it_was_made_with(
    scans: Path, checkpoint: Path, tmp_path: Path
) -> None:
    settings = RunSettings(
        features=FeatureSettings(threads=1, drop_pen=True), model=ModelSettings(canvas="slide")
    )
    run_cohort([scans / "a.tif"], checkpoint, settings, out=tmp_path, cohort=ALONE)
    made = read_settings(tmp_path)
    assert made is not None
    assert made.settings == dataclasses.replace(settings, grid=made.settings.grid)
    assert made.settings.grid is not None
    assert made.settings.grid.patch_size == 64  # the checkpoint's
    assert made.checkpoint == str(checkpoint)
    # what is read is given back as it is: nothing is done again
    same = run_cohort([scans / "a.tif"], made.checkpoint, made.settings, out=tmp_path, cohort=ALONE)
    assert [row.state for row in same.rows] == ["reused"]
    file = tmp_path / "cohort.json"
    told = json.loads(file.read_text())
    for spoil in ({"patch_size": "many"}, {"patch_size": -1}):
        told["settings"]["grid"] |= spoil
        file.write_text(json.dumps(told))
        assert read_settings(tmp_path) is None
    file.write_text(file.read_text()[:-20])
    assert read_settings(tmp_path) is None
    assert read_settings(tmp_path / "a") is None


def test_a_locked_slide_is_waited_for(scans: Path, tmp_path: Path) -> None:
    extract([scans / "a.tif"], out=tmp_path, cohort=ALONE)
    lock = worked_on(tmp_path / "a")
    lock.__enter__()
    seen: list[str] = []

    def tell(row: SlideStatus) -> None:
        seen.append(row.state)
        if seen.count("elsewhere") == 2:
            lock.__exit__(None, None, None)

    summary = extract([scans / "a.tif"], out=tmp_path, cohort=ALONE, on_status=tell)
    assert summary.rows[0].state == "reused"
    assert seen.count("elsewhere") == 2


def test_features_of_a_folder_belong_to_slides_by_name(
    scans: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from napari_2dmamba.models import load_checkpoint

    grid = GridSettings().trained_for(load_checkpoint(checkpoint).header)
    made = extract([scans / "a.tif"], RunSettings(grid=grid), out=tmp_path / "f", cohort=ALONE)
    bags = tmp_path / "bags"
    bags.mkdir()
    shutil.copy(made.rows[0].result["file"], bags / "a.h5")
    slides = [scans / "a.tif", scans / "c.tif"]
    rows = run_cohort(slides, checkpoint, out=tmp_path / "o", cohort=ALONE, features=bags).rows
    assert rows[0].state == "done"
    assert "holds no features of c.tif" in rows[1].reason
    with pytest.raises(FeatureError, match="holds the features of one slide, and 2 slides"):
        run_cohort(slides, checkpoint, out=tmp_path / "o2", cohort=ALONE, features=bags / "a.h5")


def test_the_table_tells_the_results_of_two_checkpoints_apart(
    scans: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", write_checkpoint(tmp_path / "tiny.safetensors", seed=5)
    slides = [scans / "a.tif", scans / "c.tif"]
    assert not run_cohort(slides, checkpoint, out=out, cohort=ALONE).warnings
    (said,) = run_cohort(slides[:1], other, out=out, cohort=ALONE).warnings
    assert "1 results in summary.csv are of another checkpoint or other settings" in said

    def lines() -> dict[str, dict[str, str]]:
        with (out / "summary.csv").open(newline="") as file:
            return {line["slide"]: line for line in csv.DictReader(file)}

    mixed = lines()
    assert {line["state"] for line in mixed.values()} == {"done"}
    assert mixed["a.tif"]["checkpoint"] == mixed["c.tif"]["checkpoint"] == "tiny.safetensors"
    assert mixed["a.tif"]["settings digest"] != mixed["c.tif"]["settings digest"]
    assert mixed["a.tif"]["mpp"] == "0.5"
    shutil.move(other, tmp_path / "renamed.safetensors")
    again = run_cohort(slides, tmp_path / "renamed.safetensors", out=out, cohort=ALONE)
    assert (states(again), again.warnings) == ({"a.tif": "reused", "c.tif": "done"}, ())
    assert {line["settings digest"] for line in lines().values()} == {
        mixed["a.tif"]["settings digest"]
    }
    assert {line["checkpoint"] for line in lines().values()} == {"renamed.safetensors"}


@pytest.mark.parametrize("what", ["features", "regions"])
def test_a_file_found_by_name_is_not_taken_for_two_slides(
    what: str, checkpoint: Path, tmp_path: Path
) -> None:
    slides = []
    for seed, folder in enumerate("xy"):
        (tmp_path / folder).mkdir()
        slides.append(write_slide(tmp_path / folder / "s.tif", seed=seed))
    beside = tmp_path / what
    beside.mkdir()
    if what == "features":  # as other tools write them: of which slide they are is not told
        with h5py.File(beside / "s.h5", "w") as file:
            file["features"] = np.zeros((2, 102), np.float32)
            file["coords"] = np.array([[320, 256], [384, 256]])
            file["coords"].attrs.update(patch_size=64, patch_level=0, patch_size_level0=64)
    else:
        square = [[320, 256], [900, 256], [900, 800], [320, 800], [320, 256]]
        shape = {"type": "Polygon", "coordinates": [square]}
        text = json.dumps({"type": "Feature", "geometry": shape, "properties": {}})
        (beside / "s.geojson").write_text(text)

    def rows(of: list[Path]) -> tuple[SlideStatus, ...]:
        given = {what: beside}
        return run_cohort(of, checkpoint, out=tmp_path / "o", cohort=ALONE, **given).rows

    for row in rows(slides):
        assert row.state == "failed"
        assert f"two slides of this list are called s, and the folder of {what}" in row.reason
    assert rows(slides[:1])[0].state == "done"


def test_what_cannot_begin_is_one_sentence(
    scans: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_2dmamba.cohort.dask_cluster._SECONDS_TO_CONNECT", 1)
    with pytest.raises(CohortError, match="cannot be written"):
        extract([scans], out=scans / "broken.svs" / "out", cohort=ALONE)
    with pytest.raises(CohortError, match="no Dask scheduler answers"):
        extract([scans], out=tmp_path, cohort=CohortSettings(dask="tcp://127.0.0.1:9"))
    with pytest.raises(CohortError, match=r"scheduler file .* does not exist"):
        extract([scans], out=tmp_path, cohort=CohortSettings(dask=str(tmp_path / "no.json")))
    with pytest.raises(CheckpointError):
        run_cohort([scans], scans / "a.tif", out=tmp_path, cohort=ALONE)
    with pytest.raises(ValueError, match="retries is -1"):
        extract([CohortSlide(scans / "a.tif")], out=tmp_path, cohort=CohortSettings(retries=-1))


def test_without_dask_several_workers_say_what_to_install(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(CohortError, match=r'pip install "napari-2dmamba\[cohort\]"'):
        extract([scans], out=tmp_path, cohort=CohortSettings(workers=2))


def test_twins_of_one_name_and_content_are_two_slides(scans: Path, tmp_path: Path) -> None:
    work, out = tmp_path / "scans", tmp_path / "out"
    for place in ("one", "two", "three"):
        (work / place).mkdir(parents=True)
        shutil.copy(scans / "a.tif", work / place / "a.tif")

    def again() -> tuple[list[str], set[str]]:
        found = extract([work], out=out, cohort=ALONE)
        assert [row.name for row in found.rows] == ["a.tif"] * 3
        with found.table.open(newline="") as file:
            told = {row["path"] for row in csv.DictReader(file)}
        assert told == {f"../scans/{place}/a.tif" for place in ("one", "two", "three")}
        return [row.state for row in found.rows], {row.folder for row in found.rows}

    states, folders = again()
    assert states == ["done"] * 3
    assert len(folders) == 3
    assert again() == (["reused"] * 3, folders)


def test_a_slide_costs_the_same_in_a_long_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tables that are written while it goes on are as many as a busy machine takes long
    monkeypatch.setattr("napari_2dmamba.cohort.run._SECONDS_BETWEEN_TABLES", 1e9)

    def work(count: int) -> int:
        slides = [tmp_path / f"{number:04d}.svs" for number in range(count)]
        once = CohortSettings(workers=1, retries=0)
        return python_calls(lambda: extract(slides, out=tmp_path / str(count), cohort=once))

    work(10)
    few, many = work(40), work(240)
    assert many / few < 1.05 * 240 / 40


def test_what_was_read_before_is_not_read_again(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_status(SlideStatus(f"/scans/{name}.tif", "done", folder=str(tmp_path / name)))
    reader = CohortReader(tmp_path)
    first = reader.read().rows
    assert first == read_cohort(tmp_path).rows
    write_status(dataclasses.replace(first[1], reason="other"))
    (tmp_path / "c" / "status.json").write_text("damaged")
    (tmp_path / "d").mkdir()
    second = reader.read().rows
    assert second == read_cohort(tmp_path).rows
    assert [row.reason for row in second] == ["", "other"]
    assert second[0] is first[0]
    shutil.rmtree(tmp_path / "a")
    assert reader.read().rows == second[1:]
