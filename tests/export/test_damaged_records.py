"""Every value of a saved run is edited to a wrong type: one sentence each, no other error."""

import copy
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from shapely import box

from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.content_hash import file_hash
from napari_2dmamba.export.record import RunRecord, read_record
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.export.run_library import list_runs, set_notes
from napari_2dmamba.pipeline import settings_of
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.slide import GridSettings, Regions, Slide

from .material import attention_map, classification
from .test_record import GRID, record_of

WRONG = [None, True, -2.5, 10**30, float("nan"), "\x00x", [], {}]


@pytest.fixture
def run(slide: Slide, tmp_path: Path) -> Path:
    regions = Regions.of([box(0, 0, 300, 200)])
    return save_run(
        tmp_path / "slide" / "run", record_of(slide, regions=regions), grid=GRID,
        prediction=classification(), maps=[attention_map()], regions=regions,
    )  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value in JSON."""
    if path:
        yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else list(enumerate(value))[:3]
        for name, item in items:
            yield from places(item, (*path, name))


def edited(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return data


def test_wrong_types_anywhere_are_one_sentence(run: Path) -> None:
    file = run / "run.json"
    data = json.loads(file.read_text())
    tried = refused = 0
    for path in places(data):
        if path[0] == "software":
            continue
        for value in WRONG:
            file.write_text(json.dumps(edited(data, path, value)))
            tried += 1
            sentence = ""
            try:
                saved = open_run(run)
                settings_of(saved.record)
            except ExportError as error:
                sentence = str(error)
                refused += 1
            assert "\n" not in sentence, path
            assert len(sentence) < 1000, path
            assert len(list_runs(run.parent)) == 1
    assert tried > 1000
    assert refused > tried / 2


def test_fields_of_newer_versions_are_left_aside(run: Path) -> None:
    file = run / "run.json"
    data = json.loads(file.read_text())
    before = open_run(run)
    for section in ("slide", "grid", "features", "model", "result", "display", "regions"):
        data[section]["of_tomorrow"] = {"a": 1}
    data["settings"]["grid"]["of_tomorrow"] = 2
    data["of_tomorrow"] = 3
    file.write_text(json.dumps(data))
    after = open_run(run)
    assert after.record.slide == before.record.slide
    assert settings_of(after.record).grid == GridSettings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "is damaged"),
        ('{"a": ' + "9" * 5000 + "}", "is damaged"),
        ("\ufeff{}", "damaged"),
        ('{"schema": "napari-2dmamba run", "schema_version": true}', "is damaged"),
        ('{"schema": "napari-2dmamba run", "schema_version": 2}', "started is missing"),
    ],
)
def test_other_files_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match=says):
        read_record(tmp_path / "run.json")


def test_half_a_megabyte_of_text_is_refused_at_once(run: Path) -> None:
    file = run / "run.json"
    data = json.loads(file.read_text())
    data["model"]["header"]["intended_use"] = "x" * 500_000
    file.write_text(json.dumps(data))
    began = time.process_time()
    with pytest.raises(ExportError, match="is a text of 500000 characters, and 20000 are the most"):
        open_run(run)
    assert time.process_time() - began < 5
    with file.open("wb") as sparse:
        sparse.truncate(10**9)
    with pytest.raises(ExportError, match="1,000,000,000 bytes"):
        open_run(run)


def test_a_record_that_says_another_result_than_the_arrays_is_refused(run: Path) -> None:
    file = run / "run.json"
    data = json.loads(file.read_text())
    data["result"]["probabilities"] = [0.9, 0.1]
    file.write_text(json.dumps(data))
    with pytest.raises(ExportError, match=r"the result in run\.json is another than that"):
        open_run(run)


def test_changed_regions_are_refused(run: Path) -> None:
    path = run / "regions.geojson"
    path.write_text(path.read_text().replace("300.0", "301.0"))
    with pytest.raises(ExportError, match=r"regions\.geojson was changed or cut short"):
        open_run(run)


def test_a_record_goes_through_json_and_back(slide: Slide) -> None:
    record = record_of(slide)
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_half_characters_are_kept_and_places_beyond_any_slide_refused(run: Path) -> None:
    file = run / "run.json"
    data = json.loads(file.read_text())
    data["title"] = "a\ud800b\udcff"
    file.write_text(json.dumps(data))
    set_notes(run, "mine")
    assert (open_run(run).title, open_run(run).notes) == ("a\ud800b\udcff", "mine")
    file.read_text(encoding="utf-8")
    arrays = load_file(run / "arrays.safetensors")
    arrays["grid.coords"][0, 0] = -(2**62)
    save_file(arrays, run / "arrays.safetensors")
    data["checksums"]["arrays.safetensors"] = file_hash(run / "arrays.safetensors")
    file.write_text(json.dumps(data))
    with pytest.raises(ExportError, match=r"grid\.coords lie beyond any slide"):
        open_run(run)


def test_a_patch_off_the_map_has_no_value(run: Path, slide: Slide) -> None:
    saved = open_run(run)
    moved = dataclasses.replace(saved.maps[0], name="of another model", origin=(64, 0))
    shown = ShownRun(slide, saved.grid, saved.prediction, (moved,), saved.record)
    left = saved.grid.coords[:, 0] < 64
    assert left.any()
    assert np.isnan(shown.patches(moved).scores[left]).all()  # and not that of the other edge
