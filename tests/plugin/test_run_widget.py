import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QEvent, QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_2dmamba.features import load_encoder
from napari_2dmamba.models import CheckpointHeader, save_checkpoint
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.models.registry import architecture
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.run_widget.slide_section import SlideSection
from napari_2dmamba.plugin.session.slide_state import Choices, SlideState
from napari_2dmamba.sample import demo_checkpoint
from napari_2dmamba.slide import GridSettings, Slide, open_slide
from tests.material import shared
from tests.plugin.conftest import (
    LONG,
    MPP,
    add_slide,
    canvas_picture,
    on_canvas,
    process_events,
    tissue_pixels,
    write_slide,
)
from tests.slide.written_dicom import JPEG, write_dicom
from tests.tiny import write_slide as write_tiny_slide

WARNING = "Made for a test, not for any medical use."


def make_checkpoint(folder: Path, seed: int = 1, **changes: Any) -> Path:
    import torch

    torch.manual_seed(seed)
    kind = architecture("2dmamba")
    feature_size = load_encoder(device="cpu").feature_size
    outputs = len(changes.get("class_names", ("normal", "tumour")))
    config = kind.config_class(  # type: ignore[call-arg]
        feature_size=feature_size, n_outputs=outputs, d_model=8, d_state=4
    )
    values: dict[str, Any] = {
        "task": "classification", "class_names": ("normal", "tumour"),
        "encoder": "stain-texture-v1", "patch_size": 256, "mpp": 0.5, "canvas": (10, 12),
        "intended_use": WARNING,
    }  # fmt: skip
    header = CheckpointHeader(
        architecture="2dmamba", config=dataclasses.asdict(config), **(values | changes)
    )
    path = folder / f"{header.task}.safetensors"
    save_checkpoint(Aggregator(build_model(header), header), path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs are kept: a preference of the user."""
    from napari.settings import get_plugin_settings

    folder = tmp_path / "runs"
    monkeypatch.setattr(get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(folder))
    return folder


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer(show=True)
    viewer.theme = "light"
    viewer.window.resize(1300, 900)
    return viewer


@pytest.fixture
def widget(viewer: Any, runs: Path, checkpoint: Path) -> Iterator[RunWidget]:
    widget = RunWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Run 2DMamba", area="right")
    widget.model_section.add_checkpoint(checkpoint)
    yield widget
    widget.let_go()


@pytest.fixture
def slide(slide_path: Path) -> Iterator[Slide]:
    with open_slide(slide_path) as slide:
        yield slide


def finish(widget: RunWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not widget.is_running, timeout=LONG)
    process_events()


def map_layer(viewer: Any) -> HeatmapLayer:
    (layer,) = [layer for layer in viewer.layers if isinstance(layer, HeatmapLayer)]
    return layer


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


def test_gallery_cursor_and_display(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide
) -> None:
    add_slide(viewer, slide)
    widget.start_run()
    finish(widget, qtbot)
    section, layer = widget.result_section, map_layer(viewer)
    gallery = section.gallery
    assert len(gallery.buttons) == 8
    qtbot.waitUntil(lambda: not gallery.is_loading, timeout=LONG)
    gallery.buttons[0].click()
    row, col = np.unravel_index(np.nanargmax(layer.data), layer.data.shape)
    centre = layer.data_to_world((row, col))
    assert viewer.scene.camera.center[-2:] == pytest.approx(tuple(centre))
    image = gallery.buttons[0].icon().pixmap(78, 78).toImage()
    colour = image.pixelColor(39, 39)
    assert colour.red() > 150
    assert 70 < colour.green() < 170

    section.show_cursor(int(row), int(col))
    assert "rank 1 of 12" in section.readout.text()
    x, y = layer.grid_map.origin[0] + col * 256, layer.grid_map.origin[1] + row * 256
    assert f"x {x}, y {y}" in section.readout.text()
    assert "row 2, column 5" in section.readout.text()  # of the slide, as in exports
    section.show_cursor(0, 0)
    assert "rank 1 of" not in section.readout.text()
    section.show_cursor(-1, 0)  # off the map: the patch that was clicked in the gallery
    assert "rank 1 of 12" in section.readout.text()
    widget.session.select_patch(widget.session.current, None)
    assert "rank" not in section.readout.text()

    before = layer.data.copy()
    section.form.editor("transform").set("log")
    section.form.editor("opacity").set(0.8)
    assert layer.display.transform == "log"
    assert layer.opacity == 0.8
    np.testing.assert_array_equal(layer.data, before)
    layer.gamma = 0.6
    assert section.display.gamma == 0.6
    text = viewer.canvas.overlays.text
    assert text.visible
    assert "log" in text.text
    section.show_layer.click()
    assert not layer.visible
    assert not text.visible
    layer.visible = True
    assert section.show_layer.isChecked()
    viewer.layers.remove(layer)
    assert section.maps.count() == 0


def test_a_dicom_slide_has_a_dicom_map_which_names_the_patient_on_request(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom", reason="the extra dicom-results is not installed")
    import pydicom

    section = widget.export_section
    assert section.kinds.findData("dicom-map") == -1
    add_slide(viewer, slide)
    widget.start_run()
    finish(widget, qtbot)
    assert section.kinds.findData("dicom-map") == -1  # a TIFF
    (path,) = write_dicom(tmp_path / "in", [tissue_pixels()], JPEG, mpp=MPP)
    with open_slide(path) as scanned:
        add_slide(viewer, scanned)
        widget.start_run()
        finish(widget, qtbot)
        shown = widget.shown
        assert shown is not None
        assert shown.slide is scanned
        section.kinds.setCurrentIndex(section.kinds.findData("dicom-map"))
        section.set_open(True)
        process_events()
        assert section.with_patient.isVisible()
        assert not section.with_patient.isChecked()
        names = []
        for number, asked in enumerate((False, True)):
            section.with_patient.setChecked(asked)
            out = tmp_path / f"{number}.dcm"
            section.export_wanted.emit("dicom-map", str(out), None)
            finish(widget, qtbot)
            assert widget.footer.message.kind == "good", widget.footer.message.text()
            names.append(str(pydicom.dcmread(out).PatientName))
        assert names == ["", "DOE^JANE"]
        section.kinds.setCurrentIndex(section.kinds.findData("csv"))
        assert not section.with_patient.isVisible()
        widget.start_run()
        finish(widget, qtbot)
        assert not section.with_patient.isChecked()  # not asked for this run
        viewer.layers.clear()
        process_events()
    assert section.kinds.findData("dicom-map") == -1
    assert section.kind == "csv"


def test_every_export_and_a_saved_run(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide, tmp_path: Path
) -> None:
    add_slide(viewer, slide)
    widget.start_run()
    finish(widget, qtbot)
    shown = widget.shown
    assert shown is not None
    files = {
        "view": "view.png", "png": "slide.png", "report": "c.html",
        "overlay": "o.ome.tif", "map": "m.ome.tif",
        "geojson": "p.geojson", "csv": "s.csv", "parquet": "s.parquet", "record": "r.json",
    }  # fmt: skip
    for kind, name in files.items():
        path = tmp_path / name
        widget.export_section.export_wanted.emit(kind, str(path), None)
        finish(widget, qtbot)
        assert widget.footer.message.kind == "good", widget.footer.message.text()
        assert path.stat().st_size > 0
    assert len(json.loads((tmp_path / "p.geojson").read_text())["features"]) == 12
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 13
    values = tifffile.imread(tmp_path / "m.ome.tif")
    assert np.nanmax(values) == pytest.approx(shown.prediction.attention.max())

    widget.export_section.export_wanted.emit("csv", str(tmp_path / "no" / "\0.csv"), None)
    finish(widget, qtbot)
    assert widget.footer.message.kind == "error"

    viewer.layers.clear()
    assert widget.session.current is None
    assert shown.folder is not None
    widget.open_saved_run(shown.folder)
    finish(widget, qtbot)
    assert widget.footer.message.text() == ""
    layer = map_layer(viewer)
    np.testing.assert_array_equal(layer.data, shown.maps[0].values)
    again = widget.shown
    assert again is not None
    np.testing.assert_array_equal(again.prediction.logits, shown.prediction.logits)
    assert widget.session.current.slide is again.slide


def test_opening_what_is_no_run(widget: RunWidget, qtbot: Any, tmp_path: Path) -> None:
    widget.open_saved_run(tmp_path)
    finish(widget, qtbot)
    assert widget.footer.message.kind == "error"
    assert "run.json" in widget.footer.message.text()


def test_a_survival_model_shows_curves(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide, tmp_path: Path
) -> None:
    add_slide(viewer, slide)
    names = ("year 1", "year 2", "year 3", "later")
    widget.model_section.add_checkpoint(
        make_checkpoint(tmp_path, task="survival", class_names=names)
    )
    widget.start_run()
    finish(widget, qtbot)
    shown = widget.shown
    assert shown is not None
    left, right = widget.result_section.chart.figure.axes
    assert (left.get_title(), right.get_title()) == ("Hazard", "Survival")
    heights = [bar.get_height() for bar in left.patches]
    np.testing.assert_allclose(heights, shown.prediction.hazards)
    assert "Risk score" in widget.result_section.headline.text()


def test_it_fits_a_screen_of_1080_pixels(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Slide
) -> None:
    add_slide(viewer, slide)
    for section in (widget.slide_section, widget.features_section, widget.model_section,
                    widget.result_section, widget.export_section):  # fmt: skip
        section.set_open(True)
    process_events()
    assert widget.minimumSizeHint().height() < 900
    assert viewer.window.geometry()[3] < 1080
    for section in (widget.slide_section, widget.features_section, widget.model_section):
        section.set_open(False)
        assert not section._body.isVisible()


def test_progress_is_shown_in_words(qtbot: Any) -> None:
    footer = ProgressFooter()
    qtbot.addWidget(footer)
    footer.set_running(True)
    footer.show_progress(0, 0, "finding tissue")
    assert footer.detail.text() == "Finding tissue"
    assert footer.bar.maximum() == 0
    footer.show_progress(30, 120, "12 patches/s, 8 s left")
    assert footer.detail.text() == "30 of 120 · 12 patches/s, 8 s left"
    assert (footer.bar.value(), footer.bar.maximum()) == (30, 120)
    footer.set_running(False)
    assert footer.run.isEnabled()
