"""Answers that come late, are called off, or are renamed: none is taken for another one."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from qtpy.QtCore import QObject
from qtpy.QtGui import QTextDocument
from shapely import box

from napari_2dmamba.models import load_checkpoint, save_checkpoint
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.pipeline import run
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.inspect_widget.what_if_section import INSPECTED
from napari_2dmamba.plugin.layers.region_layers import drawn_regions
from napari_2dmamba.plugin.overview import SlideOverview
from napari_2dmamba.plugin.parts.dropped import intake_of, take
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.plugin.slides_widget.thumbnails import SIDE, Thumbnails
from napari_2dmamba.plugin.vision_widget.fields_control import of_one_crop
from napari_2dmamba.plugin.vision_widget.layers import ShownField
from napari_2dmamba.slide import Region, Regions, open_slide, write_regions
from napari_2dmamba.vision.pixel_field import PixelField
from napari_2dmamba.vision.region import Place
from tests.plugin.conftest import LONG, process_events
from tests.plugin.inspect_widget import settle, viewer, widgets
from tests.plugin.run_widget import runs
from tests.tiny import write_checkpoint, write_slide

__all__ = ["runs", "viewer", "widgets"]  # fixtures

pytestmark = pytest.mark.usefixtures("runs")

LOW = "<1 % & <b"
"""A class whose name a rich text would swallow."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_checkpoint(tmp_path_factory.mktemp("models") / "tiny.safetensors")
    plain = load_checkpoint(path)
    header = dataclasses.replace(plain.header, class_names=(LOW, LOW + " or more"))
    save_checkpoint(Aggregator(plain.model, header), path)
    return path


def seen(rich: str) -> str:
    """What a label with this text shows."""
    document = QTextDocument()
    document.setHtml(rich)
    return document.toPlainText()


def test_an_answer_stays_with_its_name_map_and_slide(
    widgets: tuple[RunWidget, InspectWidget], viewer: Any, checkpoint: Path, tmp_path: Path,
    qtbot: Any,
) -> None:  # fmt: skip
    run_widget, inspect = widgets
    session = run_widget.session
    slide = session.add(open_slide(write_slide(tmp_path / "first.tif")))
    found = run(slide.slide, checkpoint, out=tmp_path / "run")
    attention = found.attention_map
    inverse = dataclasses.replace(attention, name="inverse", values=-attention.values)
    session.runs.show(
        slide,
        ShownRun(slide.slide, found.grid, found.prediction, (attention, inverse), found.record,
                 found.folder, found.bag),
    )  # fmt: skip
    process_events()

    # the class is named in full
    section = run_widget.result_section
    name = found.prediction.class_names[found.prediction.top_class]
    assert seen(section.headline.text()).startswith(f"{name}, probability")
    assert section.about.text().startswith("first.tif · tiny.safetensors")

    # a map under another name is still the one that is read and exported
    section.map_chosen.emit("Inverse")
    layer = run_widget.map_layer
    assert layer is not None
    assert layer.grid_map.name == "inverse"
    layer.name = "mine"
    process_events()
    assert run_widget.map_layer is layer
    assert section.maps.currentText() == "mine"
    for number, called in enumerate(("mine", "other")):
        layer.name = called
        run_widget.export_section.export_wanted.emit("png", str(tmp_path / f"{number}.png"), 8.0)
        qtbot.waitUntil(lambda: not run_widget.is_running, timeout=LONG)
    section.map_chosen.emit("Attention")
    run_widget.export_section.export_wanted.emit("png", str(tmp_path / "2.png"), 8.0)
    qtbot.waitUntil(lambda: not run_widget.is_running, timeout=LONG)
    mine, again, other = (np.asarray(Image.open(tmp_path / f"{i}.png")) for i in range(3))
    np.testing.assert_array_equal(mine, again)
    assert (mine != other).any()

    # a resolution is given in what the slide is counted in
    export, shown = run_widget.export_section, run_widget.shown
    assert shown is not None
    assert export.mpp.suffix() == " µm/px"
    with open_slide(write_slide(tmp_path / "pixels.tif", mpp=None)) as unknown:
        export.set_run(dataclasses.replace(shown, slide=unknown))
        assert export.mpp.suffix() == " level-0 px per px"
        export.set_run(shown)

    # an edit that was called off is in no later answer
    inspect.map_list.tick("erf", False)
    inspect.mode.click()
    settle(inspect, qtbot)
    inspected = inspect.live.inspected
    assert inspected is not None
    edits = inspected.counterfactuals
    inspect.what_if_section.edit_wanted.emit(INSPECTED, "remove")
    inspect._jobs.cancel()
    settle(inspect, qtbot)
    assert inspect.footer.message.text() == "Stopped; nothing was changed."
    assert len(edits) == 0
    inspect.step(0, 1)
    inspect.what_if_section.edit_wanted.emit(INSPECTED, "remove")
    settle(inspect, qtbot)
    words = seen(inspect.what_if_section.words.text())
    assert words.startswith(f"With 1 of {len(found.bag)} patches gone, the probability of {name}")

    # a picture that comes late is of no slide but its own
    inspect.step(0, 1)
    session.add(open_slide(write_slide(tmp_path / "second.tif", seed=1)))
    settle(inspect, qtbot)
    assert "second.tif has no run" in inspect.message.text()
    assert not inspect.patch_section.picture.isVisibleTo(inspect.patch_section)

    # regions that were dropped on one slide are drawn on no other
    file, said = tmp_path / "drawn.geojson", []
    write_regions(Regions((Region(box(400, 400, 600, 600)),)), file)
    session.events.said.connect(lambda sentence, _: said.append(sentence))
    take(session, [file])
    session.show(slide)
    qtbot.waitUntil(lambda: not intake_of(session).is_busy, timeout=LONG)
    assert all(drawn_regions(session, one) is None for one in session.slides)
    assert said == ["drawn.geojson was not used, for another slide is shown now; drop it again"]

    # nor is one of a slide that was closed
    overview = SlideOverview(viewer)
    qtbot.addWidget(overview)
    for one in session.slides:
        session.close(one)
    qtbot.waitUntil(lambda: not overview._loading.is_busy, timeout=LONG)
    process_events()
    assert overview.thumbnail._pixmap is None
    overview.let_go()


def test_one_picture_lies_below_the_fields_of_one_crop_alone() -> None:
    """Two networks may be asked about one place with crops of as many pixels, but wider ones."""
    values, picture = np.ones((4, 4)), np.zeros((4, 4, 3), np.uint8)

    def field(model: str, corner: float, step: float) -> ShownField:
        place = Place((corner, corner), step, 0.5)
        return ShownField(PixelField(values, model, 0, 1, 1, (2, 2), place), picture, (8.0, 8.0))

    shown = [field("a", 6, 1), field("b", 4, 2), field("c", 6, 1)]
    assert [one.field.model for one in of_one_crop(shown)] == ["a", "c"]


def test_a_slide_in_place_of_another_has_its_own_picture(tmp_path: Path, qtbot: Any) -> None:
    parent, seen = QObject(), []
    thumbnails = Thumbnails(parent)
    for pixels in (np.full((256, 256, 3), 60, np.uint8), np.full((512, 256, 3), 200, np.uint8)):
        tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(256, 256), photometric="rgb")
        thumbnails.want({tmp_path / "slide.tif": None})
        qtbot.waitUntil(lambda: not thumbnails.is_busy, timeout=LONG)
        picture = thumbnails.icon(tmp_path / "slide.tif").pixmap(SIDE, SIDE).toImage()
        seen.append(picture.pixelColor(SIDE // 2, SIDE // 2).red())
    assert seen == [pytest.approx(60, abs=10), pytest.approx(200, abs=10)]
