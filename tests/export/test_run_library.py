"""Runs are listed, named, noted and thrown away, and none is ever written over."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from shapely import box

from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.record_of_run import make_record
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.export.run_library import (
    list_all_runs,
    list_runs,
    move_to_bin,
    new_run_folder,
    rename_run,
    set_notes,
    slide_folder,
)
from napari_2dmamba.slide import Regions, Slide
from tests import warm

from .material import attention_map, classification
from .test_record import BAG, GRID

NOON = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)


def kept(root: Path, slide: Slide, model: str = "abmil", minutes: int = 0, **more) -> Path:
    """Save a run in a folder of its own."""
    started = NOON + timedelta(minutes=minutes)
    checkpoint = root / f"{model}.safetensors"
    root.mkdir(exist_ok=True, parents=True)
    checkpoint.write_bytes(b"weights")
    regions = more.pop("regions", None)
    record = make_record(
        slide=slide, grid=GRID, bag=BAG, prediction=classification(), settings={},
        checkpoint=checkpoint, started=started, regions=regions,
    )  # fmt: skip
    folder = new_run_folder(root, slide, model, started)
    return save_run(
        folder, record, grid=GRID, prediction=classification(), maps=[attention_map()],
        regions=regions,
    )  # fmt: skip


def test_a_run_gets_a_folder_named_by_time_and_model(slide: Slide, tmp_path) -> None:
    folder = new_run_folder(tmp_path, slide, "CLAM sb: v2/final", NOON)
    assert folder.parent == tmp_path / f"squares.ome-{slide.fingerprint[:8]}"
    assert folder.parent == slide_folder(tmp_path, slide)
    local = NOON.astimezone()
    assert folder.name == f"{local:%Y-%m-%d_%H%M%S}-CLAM-sb-v2-final"
    assert folder.is_dir()


def test_runs_of_one_second_get_folders_of_their_own(slide: Slide, tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, slide, "m", NOON), range(40)))
    assert len(set(folders)) == 40
    assert list_runs(slide_folder(tmp_path, slide)) == []  # none was finished


def test_long_names_fit_the_file_system(slide: Slide, tmp_path) -> None:
    assert slide.fingerprint  # read before the name is changed
    slide.path = slide.path.with_name("ß" * 120 + ".svs")
    folder = new_run_folder(tmp_path, slide, "x" * 300, NOON)
    assert folder.is_dir()
    slide.path = slide.path.with_name("ß" * 119 + "a.svs")
    assert new_run_folder(tmp_path, slide, "x" * 300, NOON).parent != folder.parent


def test_the_runs_of_a_slide_are_listed_newest_first(slide: Slide, tmp_path) -> None:
    first = kept(tmp_path, slide, "abmil")
    regions = Regions.of([box(0, 0, 200, 200), box(0, 0, 9, 9)], [box(5, 5, 10, 10)])
    second = kept(tmp_path, slide, "clam", 5, regions=regions)
    runs = list_runs(slide_folder(tmp_path, slide))
    assert [run.folder for run in runs] == [second, first]
    assert [run.model for run in runs] == ["clam", "abmil"]
    assert runs[0].started == NOON + timedelta(minutes=5)
    assert (runs[0].included, runs[0].excluded) == (2, 1)
    assert runs[0].regions == "2 included, 1 excluded"
    # logits 0.2 and 1.7: 1 / (1 + exp(-1.5)) = 0.8176
    assert runs[1].verdict == "tumour 81.8%"
    assert runs[1].slide_fingerprint == slide.fingerprint
    assert list_all_runs(tmp_path) == runs
    assert list_runs(tmp_path / "nothing") == list_all_runs(tmp_path / "nothing") == []


def test_a_run_gets_title_and_notes_and_is_otherwise_the_same(slide: Slide, tmp_path) -> None:
    folder = kept(tmp_path, slide)
    before = open_run(folder)
    assert rename_run(folder, " my \n run ").display_name == "my run"
    assert set_notes(folder, "line 1\nline 2 µ").notes == "line 1\nline 2 µ"
    after = open_run(folder)
    assert (after.title, after.notes) == ("my run", "line 1\nline 2 µ")
    assert after.record.slide == before.record.slide
    assert after.record.result == before.record.result
    assert rename_run(folder, "").display_name.startswith("abmil, 2026-11-27 ")
    with pytest.raises(ExportError, match=r"notes is a text of 20001 characters, and 20000 are"):
        set_notes(folder, "x" * 20_001)
    assert open_run(folder).notes == "line 1\nline 2 µ"


def test_regions_come_back_with_all_they_are_called(slide: Slide, tmp_path) -> None:
    import dataclasses

    drawn = Regions.of([box(0.1, 1 / 3, 200.7, 200)], [box(5, 5, 10, 10)])
    named = Regions(
        (dataclasses.replace(drawn.regions[0], name="core", classification="Tumor",
                             colour=(200, 0, 0)), drawn.regions[1])
    )  # fmt: skip
    back = open_run(kept(tmp_path, slide, regions=named)).regions
    assert back is not None
    for one, other in zip(back, named, strict=True):
        assert one.geometry.equals_exact(other.geometry, 0)
        assert (one.role, one.name, one.classification, one.colour) == (
            other.role, other.name, other.classification, other.colour,
        )  # fmt: skip
    assert back.content_hash() == named.content_hash()


def old_layout(slide: Slide, tmp_path: Path) -> Path:
    """Put a run as version 1 wrote it directly into the slide's folder."""
    source = kept(tmp_path / "elsewhere", slide)
    folder = slide_folder(tmp_path, slide)
    shutil.copytree(source, folder)
    data = json.loads((folder / "run.json").read_text())
    data["schema_version"] = 1
    data["slide"]["path"] = str(slide.path)
    data["model"] |= data["model"].pop("header")
    data["model"]["intended_use"] = "tests only"
    data["saved"]["display"] = data.pop("display") | {"colormap": "magma"}
    data["relative_paths"] = {"slide": os.path.relpath(slide.path, folder), "features": None}
    data["explanations"] = {
        "target": None, "layer": 1, "channels": "absolute",
        "query": {"patch": 3, "x": 0, "y": 100, "row": 1, "col": 0},
        "maps": {"erf": {"title": "ERF", "meaning": "m", "size": {"unit": "µm"}}},
    }  # fmt: skip
    for name in ("regions", "title", "notes"):
        data.pop(name)
    (folder / "run.json").write_text(json.dumps(data))
    (folder / "features-0123.h5").touch()
    return folder


def test_a_run_of_the_old_layout_is_listed_and_opens(slide: Slide, tmp_path) -> None:
    folder = old_layout(slide, tmp_path)
    new = kept(tmp_path, slide, "clam", 9)
    runs = list_runs(folder)
    assert [run.folder for run in runs] == [new, folder]
    saved = open_run(folder)
    assert saved.find_slide() == slide.path
    assert saved.record.model.intended_use == "tests only"
    assert saved.display.colormap == "magma"
    assert saved.record.explanations is not None
    assert saved.record.explanations.queries[0].row == 1
    assert saved.record.explanations.queries[0].extents == {"erf": {"unit": "µm"}}
    assert rename_run(folder, "old one").title == "old one"


def test_damaged_runs_are_listed_with_their_sentence(slide: Slide, tmp_path) -> None:
    good, cut, gone = (kept(tmp_path, slide, "m", minutes) for minutes in range(3))
    (cut / "run.json").write_text("{")
    (gone / "arrays.safetensors").unlink()
    runs = list_runs(good.parent)
    assert runs[0].folder == good
    assert runs[0].problem is None
    problems = {run.folder: run.problem for run in runs[1:]}
    assert "is damaged (no JSON" in problems[cut]
    assert "is missing from the saved run" in problems[gone]


BIN = """
import sys
from napari_2dmamba.export.run_library import move_to_bin
print(move_to_bin(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the bin's place is known on Linux")
def test_a_run_goes_to_the_bin_of_the_system(slide: Slide, tmp_path) -> None:
    folder = kept(tmp_path, slide)
    home = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    done = warm.python("-c", BIN, str(folder), env=home)
    assert done.stdout.strip() == f"{folder.name} is in the bin of the system", done.stderr
    assert not folder.exists()
    found = list(tmp_path.rglob(f"**/files/{folder.name}/run.json"))
    assert len(found) == 1
    assert list_runs(folder.parent) == []


def test_without_a_bin_a_run_goes_beside(slide: Slide, tmp_path, monkeypatch) -> None:
    def no_bin(path) -> None:
        raise OSError("no bin here")

    monkeypatch.setattr("send2trash.send2trash", no_bin)
    folder = kept(tmp_path, slide)
    said = move_to_bin(folder)
    goal = folder.parent / ".bin" / folder.name
    assert said == f"{folder.name} is in {goal}, for this system has no bin here; delete it there"
    assert (goal / "run.json").is_file()
    assert list_runs(folder.parent) == []
    with pytest.raises(ExportError, match="holds no run"):
        move_to_bin(folder)


def test_of_an_old_run_only_its_own_files_go(slide: Slide, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("send2trash.send2trash", shutil.rmtree)
    folder = old_layout(slide, tmp_path)
    new = kept(tmp_path, slide, "clam", 9)
    move_to_bin(folder)
    assert (folder / "features-0123.h5").is_file()
    assert [run.folder for run in list_runs(folder)] == [new]
