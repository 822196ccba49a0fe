"""The saved runs of a slide in the Run widget: listed, shown, compared, named, thrown away."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QInputDialog, QMessageBox
from shapely import box

from napari_2dmamba.explain.contribution import gradient_times_input
from napari_2dmamba.export import run_library
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.plugin.layers.region_layers import drawn_regions, show_regions
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.session.run_subject import subject_of
from napari_2dmamba.slide import Region, Regions, open_slide
from tests.plugin.conftest import LONG, process_events
from tests.plugin.run_widget import checkpoint, finish, make_checkpoint, runs, viewer, widget

__all__ = ["checkpoint", "runs", "viewer", "widget"]  # fixtures


def listed(widget: RunWidget, qtbot: Any) -> list[run_library.RunSummary]:
    qtbot.waitUntil(lambda: not widget.runs.is_listing, timeout=LONG)
    process_events()
    return list(widget.runs_section._runs)


@pytest.fixture
def two_runs(
    widget: RunWidget, qtbot: Any, slide_path: Path, tmp_path: Path
) -> tuple[Path, Path, Path]:
    """Two runs of one slide: on its left half, and by another model on all of it."""
    slide = widget.session.add(open_slide(slide_path))
    show_regions(widget.session, slide, Regions((Region(box(0, 0, 1024, 1536)),)))
    widget.start_run()
    finish(widget, qtbot)
    first = widget.shown
    widget.session.viewer.layers.remove("Regions to include")
    other = make_checkpoint(tmp_path, seed=5, class_names=("normal", "tumour", "other"))
    widget.model_section.add_checkpoint(other)
    widget.start_run()
    finish(widget, qtbot)
    second = widget.shown
    assert first is not None
    assert second is not None
    assert first.folder is not None
    assert second.folder is not None
    return first.folder, second.folder, other


def test_runs_are_listed_shown_compared_named_and_thrown_away(
    widget: RunWidget, qtbot: Any, two_runs: tuple[Path, Path, Path], checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first, second, _ = two_runs
    section, slide = widget.runs_section, widget.session.current
    assert slide is not None
    section.set_open(True)
    assert [one.folder for one in listed(widget, qtbot)] == [second, first]
    lines = [section.table.topLevelItem(line) for line in range(2)]
    assert [line.font(0).bold() for line in lines] == [True, False]  # which is on display
    assert lines[1].text(3) == "1 included"
    assert open_run(first).record.result.verdict == lines[1].text(2)

    # side by side, as the arrays say
    section.choose(first)
    qtbot.mouseClick(section.compare, Qt.MouseButton.LeftButton)
    finish(widget, qtbot)
    pair = widget.runs.window
    shown = [pair.table.topLevelItem(n) for n in range(pair.table.topLevelItemCount())]
    rows = {line.text(0): (line.text(1), line.text(2)) for line in shown}
    before, after = open_run(second).prediction, open_run(first).prediction
    assert rows["Probability of tumour"] == (
        f"{before.probabilities[1]:.5f}", f"{after.probabilities[1]:.5f}"
    )  # fmt: skip
    assert rows["Probability of other"][1] == "–"
    assert "all 6 shared patches" in pair.words.text()
    pair.close()

    # another run on display brings its regions and its model back
    section.show_run.click()
    finish(widget, qtbot)
    assert widget.shown is not None
    assert widget.shown.folder == first
    back = drawn_regions(widget.session, slide)
    assert back is not None
    assert widget.shown.regions is not None
    assert back.content_hash() == widget.shown.regions.content_hash()
    assert widget.session.choices.checkpoint.path == checkpoint
    assert widget.result_section.remarks.text() == ""
    listed(widget, qtbot)
    assert section.table.topLevelItem(1).font(0).bold()

    section.choose(first)
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("Left half", True))
    section.rename.click()
    monkeypatch.setattr(QInputDialog, "getMultiLineText", lambda *_, **__: ("look again", True))
    section.notes.click()
    named = listed(widget, qtbot)[1]
    assert (named.title, named.notes) == ("Left half", "look again")
    assert widget.shown.record.title == "Left half"  # and it is not lost when saved once more

    # the bin: asked, and what was on display is still there, unsaved
    gone: list[Path] = []
    monkeypatch.setattr("send2trash.send2trash", lambda path: gone.append(path))
    section.choose(first)
    monkeypatch.setattr(
        QMessageBox, "question", lambda *_, **__: QMessageBox.StandardButton.No
    )  # fmt: skip
    section.bin.click()
    assert gone == []
    monkeypatch.setattr(
        QMessageBox, "question", lambda *_, **__: QMessageBox.StandardButton.Yes
    )  # fmt: skip
    section.bin.click()
    assert gone == [first]
    assert widget.shown.folder is None
    assert widget.export_section.folder.full_text == "Not saved"


def test_what_cannot_come_back_with_a_run_is_said(
    widget: RunWidget, qtbot: Any, two_runs: tuple[Path, Path, Path]
) -> None:
    first, second, other = two_runs
    slide = widget.session.current
    assert slide is not None
    other.unlink()
    widget.session.set_mpp(slide, 0.4)
    drawn = Regions((Region(box(600, 600, 900, 900)),))
    show_regions(widget.session, slide, drawn)
    widget.open_saved_run(second)
    finish(widget, qtbot)
    said = widget.result_section.remarks.text()
    assert f"The checkpoint {other.name}" in said
    assert "with 0.5 µm per pixel now, as in this run" in said
    assert "regions drawn on pink.tif are not those of this run (all tissue)" in said
    assert slide.slide.mpp == 0.5
    assert drawn_regions(widget.session, slide) == drawn
    assert widget.footer.message.kind != "error"

    (first / "run.json").write_text("{")  # the list says so, and opens the others
    widget.runs.refresh()
    damaged = listed(widget, qtbot)[-1]
    assert damaged.problem is not None
    widget.runs_section.choose(first)
    assert not widget.runs_section.show_run.isEnabled()
    assert widget.runs_section.bin.isEnabled()


def test_everything_is_exported_at_once_and_its_folder_named(
    widget: RunWidget, qtbot: Any, slide_path: Path
) -> None:
    widget.session.add(open_slide(slide_path))
    widget.start_run()
    finish(widget, qtbot)
    shown, section = widget.shown, widget.export_section
    assert shown is not None
    assert shown.folder is not None
    layer = widget.map_layer
    assert layer is not None
    layer.display = dataclasses.replace(layer.display, colormap="magma")
    section.all.click()
    finish(widget, qtbot)
    out = shown.folder / "exports"
    assert {path.name for path in out.iterdir()} == {
        "pink-attention.ome.tif", "pink-attention.png", "pink-attention-overlay.ome.tif",
        "pink-patches.geojson", "pink-patches.csv", "pink-patches.parquet", "pink-record.json",
    }  # fmt: skip
    record = (out / "pink-record.json").read_text()
    assert str(slide_path.parent) not in record
    assert '"magma"' in record  # as it is shown
    assert section.place == out
    assert section.folder.full_text == f"Written: {out}"
    section.copy.click()
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    assert clipboard.text() == str(out)
    widget.start_run()
    finish(widget, qtbot)
    assert "Written" not in section.folder.full_text  # that was the run before
    assert widget.footer.message.text() == ""


def test_a_feature_file_without_the_width_of_patches_is_asked_for(
    widget: RunWidget, qtbot: Any, slide_path: Path, tmp_path: Path
) -> None:
    widget.session.add(open_slide(slide_path))
    path = tmp_path / "pink.h5"
    corners = np.array([[x, y] for y in (512, 768) for x in (512, 768, 1024)])
    with h5py.File(path, "w") as file:  # as CLAM writes it: no word on the patches
        file["features"] = np.random.default_rng(0).normal(size=(6, 102)).astype(np.float32)
        file["coords"] = corners
    silent = make_checkpoint(tmp_path, patch_size=None, mpp=None, encoder=None)
    widget.model_section.add_checkpoint(silent)
    section = widget.features_section
    section.from_file.setChecked(True)
    section.file.set(path)
    section.file.changed.emit()
    assert not section.facts_form.isVisibleTo(section)
    widget.start_run()
    finish(widget, qtbot)
    assert widget.footer.message.kind == "error"
    assert section.facts_form.isVisibleTo(section)
    section.facts_form.editor("feature_patch_size_level0").set(256)
    widget.start_run()
    finish(widget, qtbot)
    assert widget.shown is not None, widget.footer.message.text()
    assert widget.shown.grid.patch_size_level0 == 256
    folder = widget.shown.folder
    assert folder is not None
    section.file.set(tmp_path / "another.h5")  # of which nothing was said
    section.file.changed.emit()
    assert widget.session.choices.feature_facts.feature_patch_size_level0 is None
    widget.open_saved_run(folder)
    finish(widget, qtbot)
    assert widget.session.choices.features_to_read == path.resolve()
    assert widget.session.choices.feature_facts.feature_patch_size_level0 == 256


def test_each_class_has_its_score_and_a_map_of_what_speaks_for_it(
    widget: RunWidget, qtbot: Any, slide_path: Path
) -> None:
    widget.session.add(open_slide(slide_path))
    widget.start_run()
    finish(widget, qtbot)
    section, shown = widget.result_section, widget.shown
    assert shown is not None
    probabilities = shown.prediction.probabilities
    assert probabilities is not None
    best = shown.prediction.top_class
    assert section.classes.currentIndex() == best
    offered = [section.classes.itemText(line) for line in range(section.classes.count())]
    names = shown.prediction.class_names
    assert offered == [f"{n}: {p:.3f}" for n, p in zip(names, probabilities, strict=True)]
    maps = []
    for number in (0, 1):
        section.classes.setCurrentIndex(number)
        section.class_map.click()
        finish(widget, qtbot)
        layer = widget.map_layer
        assert layer is not None, widget.footer.message.text()
        assert layer.name == f"Contribution to {shown.prediction.class_names[number]}"
        assert layer.visible
        maps.append(layer.grid_map)
    subject = subject_of(shown)
    for number, one in enumerate(maps):
        truth = gradient_times_input(subject, number).map
        np.testing.assert_allclose(one.values, truth.values, rtol=1e-5)
    assert "Attention" in [section.maps.itemText(line) for line in range(section.maps.count())]
    widget.start_run()  # of the next run they say nothing
    finish(widget, qtbot)
    assert section.maps.count() == 1
