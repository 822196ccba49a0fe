import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QEvent, QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.run_widget.slide_section import SlideSection
from napari_2dmamba.plugin.session.slide_state import Choices, SlideState
from napari_2dmamba.sample import demo_checkpoint
from napari_2dmamba.slide import GridSettings, Slide, open_slide
from tests.material import shared
from tests.plugin.conftest import (
    LONG,
    add_slide,
    canvas_picture,
    on_canvas,
    write_slide,
)
from tests.plugin.run_widget import (
    WARNING,
    checkpoint,
    finish,
    make_checkpoint,
    map_layer,
    runs,
    slide,
    viewer,
    widget,
)
from tests.tiny import write_slide as write_tiny_slide

__all__ = ["checkpoint", "runs", "slide", "viewer", "widget"]  # fixtures


def test_what_is_to_be_known_of_a_slide_stands_beside_it(qtbot: Any, tmp_path: Path) -> None:
    path = write_tiny_slide(tmp_path / "s.tif")
    grey = np.full((288, 352), 200, np.uint8)
    tifffile.imwrite(path, grey, append=True, subfiletype=1, tile=(64, 64), metadata=None)
    section = SlideSection()
    qtbot.addWidget(section)
    with open_slide(path) as slide:
        section.show_slide(SlideState(slide, Choices()))
        assert "(352 x 288 pixels) is left out" in section.remarks.text()
    section.show_slide(None)
    assert section.remarks.text() == ""


def test_one_click_does_everything(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide, runs: Path, checkpoint: Path
) -> None:
    add_slide(viewer, slide)
    reports: list[str] = []
    show = widget.footer.show_progress
    widget.footer.show_progress = lambda *r: (reports.append(r[2]), show(*r))  # type: ignore
    qtbot.mouseClick(widget.footer.run, Qt.MouseButton.LeftButton)
    assert widget.is_running
    assert not widget.footer.run.isEnabled()
    finish(widget, qtbot)
    assert widget.footer.message.text() == ""
    assert widget.footer.run.isEnabled()
    assert any("patches/s" in report for report in reports)

    shown = widget.shown
    assert shown is not None
    assert len(shown.grid) == 12
    layer = map_layer(viewer)
    np.testing.assert_allclose(np.sort(layer.data[np.isfinite(layer.data)]),
                               np.sort(shown.prediction.attention))  # fmt: skip
    # the same numbers as the command line and Python give
    from napari_2dmamba.pipeline import run

    again = run(slide, checkpoint)
    np.testing.assert_array_equal(again.prediction.logits, shown.prediction.logits)
    np.testing.assert_array_equal(again.attention_map.values, layer.data)

    section = widget.result_section
    best = shown.prediction.top_class
    assert shown.prediction.probabilities is not None
    assert f"{shown.prediction.probabilities[best]:.3f}" in section.headline.text()
    assert section.warning.text() == WARNING
    assert "% of the attention fell on background" in section.background.text()
    assert section.is_open
    assert not widget.slide_section.is_open
    assert shown.folder is not None
    assert shown.folder.parent.parent == runs
    assert (shown.folder / "run.json").is_file()

    # the patch of highest attention is the hottest on screen
    layer.display = dataclasses.replace(layer.display, transform="raw", opacity=1.0)
    row, col = np.unravel_index(np.nanargmax(layer.data), layer.data.shape)
    y, x = layer.data_to_world((row, col))
    picture = canvas_picture(viewer)
    at_row, at_col = on_canvas(viewer, picture, x, y)
    hottest = layer.colormap.map(np.array([1.0]))[0, :3] * 255
    np.testing.assert_allclose(picture[at_row, at_col], hottest, atol=8)


def test_a_second_run_reuses_layer_and_features(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide, runs: Path
) -> None:
    add_slide(viewer, slide)
    widget.start_run()
    finish(widget, qtbot)
    layer = map_layer(viewer)
    layer.opacity = 0.25
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.h5")}
    assert before
    widget.start_run()
    finish(widget, qtbot)
    assert map_layer(viewer) is layer
    assert layer.opacity == 0.25
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.h5")} == before


def test_cancelling_keeps_the_widget_usable(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide
) -> None:
    add_slide(viewer, slide)
    widget.start_run()
    widget.footer.cancel.click()
    assert "Stopping" in widget.footer.detail.text()
    finish(widget, qtbot)
    assert "kept for the next run" in widget.footer.message.text()
    assert not any(isinstance(layer, HeatmapLayer) for layer in viewer.layers)
    assert widget.shown is None
    assert widget.footer.run.isEnabled()


def test_closing_the_dock_stops_the_run_and_lets_go(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide
) -> None:
    add_slide(viewer, slide)
    widget.start_run()
    viewer.window.remove_dock_widget(widget)
    finish(widget, qtbot)
    assert not any(isinstance(layer, HeatmapLayer) for layer in viewer.layers)
    assert all("RunWidget" not in repr(call) for call in viewer.mouse_move_callbacks)
    viewer.layers.clear()


def test_what_is_missing_is_said_in_one_sentence(
    widget: RunWidget, viewer: Any, slide: Slide, notifications: Callable[[], list[str]]
) -> None:
    widget.start_run()
    assert widget.footer.message.text().startswith("No slide is open")
    assert len(notifications()) == 1
    add_slide(viewer, slide)
    widget.features_section.from_file.setChecked(True)
    widget.start_run()
    assert "no feature file" in widget.footer.message.text().lower()
    assert not widget.is_running


def test_a_slide_without_mpp_asks_for_it(
    widget: RunWidget, viewer: Any, qtbot: Any, no_mpp_path: Path
) -> None:
    unknown = open_slide(no_mpp_path)
    (layer,) = add_slide(viewer, unknown)
    section = widget.slide_section
    assert section.mpp_row.editor.isVisibleTo(section)
    assert not section.mpp_row.use.isEnabled()  # nothing is filled in that was not read
    assert not section.show_tissue.isEnabled()
    assert "size of a pixel is unknown" in section.message.text()
    widget.start_run()
    assert not widget.is_running
    assert "no µm per pixel" in widget.footer.message.text()

    section.mpp_row.value.setValue(0.5)
    section.mpp_row.use.click()
    assert not section.mpp_row.editor.isVisibleTo(section)
    assert widget.footer.message.text() == ""
    assert layer.scale.tolist() == [0.5, 0.5]
    (state,) = widget.session.slides
    assert state.slide is not unknown
    assert state.slide.mpp == 0.5
    qtbot.waitUntil(lambda: "12</b> patches of 128 µm" in section.count.text(), timeout=LONG)
    widget.start_run()
    finish(widget, qtbot)
    assert widget.shown is not None
    assert widget.shown.record.slide.mpp_source == "given by the user"


def test_working_in_pixels(widget: RunWidget, viewer: Any, qtbot: Any, no_mpp_path: Path) -> None:
    with open_slide(no_mpp_path) as unknown:
        add_slide(viewer, unknown)
        widget.slide_section.mpp_row.use_pixels.setChecked(True)
        qtbot.waitUntil(
            lambda: "12</b> patches of 256 px" in widget.slide_section.count.text(), timeout=LONG
        )
        widget.start_run()
        finish(widget, qtbot)
        assert widget.shown is not None
        assert widget.shown.record.slide.mpp is None
        layer = map_layer(viewer)
        assert layer.scale.tolist() == [256, 256]
        assert [str(unit) for unit in layer.units] == ["pixel", "pixel"]


def test_the_preview_follows_the_settings(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide
) -> None:
    add_slide(viewer, slide)
    section = widget.slide_section
    section.show_patches.setChecked(True)
    section.show_tissue.setChecked(True)
    qtbot.waitUntil(lambda: "12</b>" in section.count.text(), timeout=LONG)
    qtbot.waitUntil(lambda: "Patches" in viewer.layers, timeout=LONG)
    assert (viewer.layers["Patches"].data > 0).sum() == 12
    section.grid_form.editor("patch_size").set(128)
    qtbot.waitUntil(lambda: "48</b> patches of 64 µm" in section.count.text(), timeout=LONG)
    assert (viewer.layers["Patches"].data > 0).sum() == 48
    # a region that leaves the left half out
    section.region_wanted.emit("include")
    regions = viewer.layers["Regions to include"]
    assert viewer.layers.selection.active is regions
    assert regions.mode == "add_polygon"
    regions.mode = "pan_zoom"
    regions.add_rectangles(np.array([[0, 1024], [0, 2047], [1535, 2047], [1535, 1024]]) - 0.5)
    qtbot.waitUntil(lambda: "24</b>" in section.count.text(), timeout=LONG)
    assert "1 to include" in section.regions_about.text()
    section.show_patches.setChecked(False)
    assert "Patches" not in viewer.layers


def test_regions_from_qupath(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide, tmp_path: Path
) -> None:
    add_slide(viewer, slide)
    square = [[512, 512], [1024, 512], [1024, 1280], [512, 1280], [512, 512]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"objectType": "annotation", "classification": {"name": "Ignore*"}},
    }
    path = tmp_path / "qupath.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    widget.slide_section.regions_file_chosen.emit(str(path))
    assert len(viewer.layers["Regions to exclude"].data) == 1
    qtbot.waitUntil(lambda: "6</b>" in widget.slide_section.count.text(), timeout=LONG)
    path.write_text("no json")
    widget.slide_section.regions_file_chosen.emit(str(path))
    assert "qupath.geojson" in widget.footer.message.text()


def test_a_slide_without_tissue_says_so(
    widget: RunWidget, viewer: Any, qtbot: Any, tmp_path: Path
) -> None:
    path = write_slide(tmp_path / "empty.tif", pixels=np.full((600, 800, 3), 255, np.uint8))
    with open_slide(path) as empty:
        add_slide(viewer, empty)
        message = widget.slide_section.message
        qtbot.waitUntil(lambda: "tissue" in message.text(), timeout=LONG)
        assert message.kind == "error"
        widget.start_run()
        finish(widget, qtbot)
        assert "tissue" in widget.footer.message.text()


def test_a_grey_slide_is_viewed_and_not_analysed(
    widget: RunWidget, viewer: Any, qtbot: Any, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (600, 800)).astype(np.uint8)
    with open_slide(write_slide(tmp_path / "grey.tif", pixels=pixels)) as grey:
        add_slide(viewer, grey)
        message = widget.slide_section.message
        qtbot.waitUntil(lambda: "greyscale" in message.text(), timeout=LONG)
        widget.start_run()
        finish(widget, qtbot)
        assert "greyscale" in widget.footer.message.text()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"<!doctype html><html>"])
def test_a_wrong_checkpoint_is_refused(
    widget: RunWidget, qtbot: Any, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    section = widget.model_section
    section.add_checkpoint(path)
    qtbot.waitUntil(lambda: section.message.kind == "error", timeout=LONG)
    assert "wrong.safetensors" in section.message.text()
    assert section.checkpoint is None
    assert not widget.footer.run.isEnabled()
    section.checkpoints.setCurrentIndex(0)
    assert widget.footer.run.isEnabled()


def test_published_weights_ask_for_what_they_lack(widget: RunWidget, qtbot: Any) -> None:
    path = shared("golden/model2d/cls_small.state_dict.pt")
    section = widget.model_section
    section.add_checkpoint(path)
    qtbot.waitUntil(lambda: section.missing_box.isVisibleTo(section), timeout=LONG)
    assert section.checkpoint is None
    form = section._missing_form
    assert form is not None
    form.editor("class_names").set("normal, tumour")
    form.editor("patch_size").set(512)
    section.load_button.click()
    qtbot.waitUntil(lambda: section.message.kind == "error", timeout=LONG)
    assert "2 class names were given for a model of 3 outputs" in section.message.text()
    assert section.missing_box.isVisibleTo(section)  # to mend it and try again
    form.editor("class_names").set("normal, benign, tumour")
    with qtbot.waitSignal(section.checkpoint_changed, timeout=LONG):
        section.load_button.click()
    assert section.header is not None, section.message.text()
    assert section.header.patch_size == 512
    assert isinstance(section.checkpoint, Aggregator)


def test_the_demo_is_the_default_and_says_what_it_is(make_napari_viewer: Any, runs: Path) -> None:
    widget = RunWidget(make_napari_viewer())
    section = widget.model_section
    assert section.checkpoints.currentText() == "Demo (synthetic slides)"
    assert section.path == demo_checkpoint()  # and no other under that name
    assert section.header is not None
    assert "synthetic" in section.warning.text()
    assert "medical" in section.warning.text()
    assert widget.footer.run.isEnabled()
    widget.let_go()
    widget.deleteLater()


def test_dropping_a_checkpoint(widget: RunWidget, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path, patch_size=128, mpp=1.0)
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(other))])
    event = QDropEvent(
        QPointF(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier, QEvent.Type.Drop,
    )  # fmt: skip
    widget.model_section.dropEvent(event)
    assert widget.model_section.path == other
    grid = widget.slide_section.grid_form.settings()
    assert (grid.patch_size, grid.target_mpp) == (128, 1.0)


def test_no_patches_of_one_checkpoint_are_left_over_for_another(
    widget: RunWidget, qtbot: Any, tmp_path: Path
) -> None:
    qtbot.waitUntil(lambda: widget.session.choices.grid == GridSettings(256, 0.5), timeout=LONG)
    silent = make_checkpoint(tmp_path, patch_size=None, mpp=None)
    widget.model_section.add_checkpoint(silent)
    qtbot.waitUntil(lambda: widget.session.choices.checkpoint.path == silent, timeout=LONG)
    assert widget.session.choices.grid == GridSettings()  # as the command line cuts it
