"""What is shown, read and exported of a run: in the widget it was made with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_2dmamba.models.answer import answer_of
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.run_widget.result_section import ResultSection
from napari_2dmamba.slide import Slide, open_slide
from tests.plugin.conftest import (
    LONG,
    MPP,
    add_slide,
    process_events,
    tissue_pixels,
)
from tests.plugin.run_widget import (
    checkpoint,
    finish,
    make_checkpoint,
    map_layer,
    runs,
    slide,
    viewer,
    widget,
)
from tests.slide.written_dicom import JPEG, write_dicom

__all__ = ["checkpoint", "runs", "slide", "viewer", "widget"]  # fixtures


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


@pytest.mark.parametrize(
    ("names", "logits", "offered", "chosen", "bars"),
    [
        (("relative risk (Cox)",), [0.7], ["relative risk (Cox): 0.700"], 0, []),
        # the highest hazard is of an output that no time bin was trained on
        (("0 to 10", "from 10 on", "unused 1"), [0.0, 1.0, 9.0],
         ["0 to 10: 0.500", "from 10 on: 0.731"], 1, [0.5, 0.731]),
    ],
)  # fmt: skip
def test_a_survival_model_shows_what_it_knows(
    qtbot: Any, names: tuple[str, ...], logits: list[float], offered: list[str], chosen: int,
    bars: list[float],
) -> None:  # fmt: skip
    said = answer_of(torch.tensor(logits), "survival")
    prediction = SlidePrediction(
        "survival", names, said.logits, np.zeros(1, np.float32), "", (1, 1),
        np.zeros((1, 2), np.int64), hazards=said.hazards, survival=said.survival, risk=said.risk,
    )  # fmt: skip
    section = ResultSection()
    qtbot.addWidget(section)
    section._show_prediction(prediction)
    section._offer_classes(prediction)
    assert f"{said.risk:.3f}" in section.headline.text()
    assert ("logarithm of a relative hazard" in section.headline.text()) == (not bars)
    assert [section.classes.itemText(i) for i in range(section.classes.count())] == offered
    assert section.classes.currentIndex() == chosen
    assert section.chart.isHidden() == (not bars)
    drawn = [bar.get_height() for axes in section.chart.figure.axes[:1] for bar in axes.patches]
    np.testing.assert_allclose(drawn, bars, atol=5e-4)


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
