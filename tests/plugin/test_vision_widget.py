"""Image networks in a real window: where layers lie, whose they are, and what ends a job."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from napari.layers import Image, Labels
from napari.settings import get_plugin_settings
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from shapely import box

from napari_2dmamba.features.transform import Transform
from napari_2dmamba.pixel_fields import FieldSettings
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.region_layers import show_regions
from napari_2dmamba.plugin.session import SlideState
from napari_2dmamba.plugin.vision_widget import VisionWidget
from napari_2dmamba.plugin.vision_widget.layers import (
    FIELD_KEY,
    SEGMENTS_KEY,
    field_layers,
    segments_layer,
    tile_layers,
    tile_maps,
)
from napari_2dmamba.slide import GridSettings, Region, Regions, open_slide
from napari_2dmamba.tiles.classifier import TileClassifier
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.segment_settings import WindowSettings
from napari_2dmamba.vision.segmenter_file import TrainedSegmenter
from napari_2dmamba.vision.upernet import Segmenter
from tests.features.networks import require_timm
from tests.plugin.conftest import (
    LONG,
    MPP,
    TISSUE,
    canvas_picture,
    colour_at,
    docked_beside,
    process_events,
)

INKS = ((0, 90, 200), (250, 200, 0))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes and random weights."""
    require_timm()
    from napari_2dmamba.features.timm_encoder import create

    torch.manual_seed(0)
    arguments = {"depths": [1], "dims": 8, "num_classes": 2}
    network = create("vmamba2d_tiny", **arguments).eval()
    transform = Transform(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    made = TileClassifier(
        network, "vmamba2d_tiny", arguments, ("stroma", "tumour"), transform, mpp=2.0
    )
    return made.save(tmp_path_factory.mktemp("networks") / "classifier")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with colours, random weights."""
    torch.manual_seed(0)
    backbone = VisionMamba(depths=(1,), dims=8, num_classes=0, drop_path_rate=0.0)
    network = Segmenter(backbone, num_classes=2, channels=8, auxiliary_channels=0).eval()
    torch.nn.init.normal_(network.decode_head.conv_seg.weight, std=3.0)
    made = TrainedSegmenter(network, ("glass", "tissue"), mpp=4.0, colours=INKS)
    return made.save(tmp_path_factory.mktemp("networks") / "s.safetensors")


@pytest.fixture
def viewer(viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(tmp_path / "runs")
    )
    return viewer


@pytest.fixture
def widget(viewer: Any, slide: SlideState) -> VisionWidget:
    return docked_beside(viewer, VisionWidget(viewer))


def finish(widget: VisionWidget, qtbot: Any) -> str:
    qtbot.waitUntil(lambda: not widget.jobs.one.is_busy, timeout=LONG)
    process_events()
    return widget.footer.message.text()


def choose(editor: Any, path: Path) -> None:
    editor.set(path)
    editor.changed.emit()


def click(viewer: Any, x: float, y: float) -> None:
    """Click level-0 ``x, y`` on the canvas."""
    canvas, camera = viewer.window._qt_viewer.canvas.native, viewer.scene.camera
    height, width = viewer.canvas.size
    center_y, center_x = camera.center[-2:]
    point = QPoint(
        round(width / 2 + ((x - 0.5) * MPP - center_x) * camera.zoom),
        round(height / 2 + ((y - 0.5) * MPP - center_y) * camera.zoom),
    )
    event = QMouseEvent(
        QEvent.Type.MouseMove, QPointF(point), QPointF(canvas.mapToGlobal(point)),
        Qt.MouseButton.NoButton, Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    QApplication.sendEvent(canvas, event)
    process_events()
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=point)
    process_events()


def test_a_click_shows_what_the_feature_there_sees(
    viewer: Any, slide: SlideState, widget: VisionWidget, classifier: Path, qtbot: Any
) -> None:
    section = widget.field_section
    section.form.set_settings(FieldSettings(crop=64, crops=1, field_mpp=1.0))
    section.point.click()
    assert "No file of weights" in widget.footer.message.text()
    assert not section.point.isChecked()
    section.weights.setCurrentIndex(section.weights.findData("folder"))
    choose(section.folder, classifier)
    section.point.click()
    click(viewer, 700, 600)
    assert "90 %" in finish(widget, qtbot)
    (layer,) = field_layers(widget.session, slide)
    shown = layer.metadata[FIELD_KEY]
    assert layer.name == "classifier, stage 1"
    # 64 pixels of 1 µm, two level-0 pixels each: the crop starts 64 level-0 pixels up and left
    x, y = shown.field.place.origin_level0
    pixel = 1 / viewer.scene.camera.zoom / MPP
    assert abs(x + 64 - 700) <= pixel + 2
    assert abs(y + 64 - 600) <= pixel + 2
    np.testing.assert_allclose(layer.scale, (1.0, 1.0))
    corner = np.array(layer.data_to_world((-0.5, -0.5)))
    np.testing.assert_allclose(corner, (np.array([y, x]) - 0.5) * MPP)
    level0 = slide.slide.read_region(int(x), int(y), 0, 128, 128).astype(float)
    means = level0.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(shown.image - means).max() <= 1
    np.testing.assert_allclose(layer.data, shown.field.shown(), atol=1e-6)
    # the table has the numbers, and random weights are called so
    assert section.table.rowCount() == 1
    assert section.table.item(0, 1).text() == f"{100 * shown.field.area(0.5):.1f}"
    section.weights.setCurrentIndex(section.weights.findData("random"))
    assert section.random.isVisibleTo(section)
    section.network.setCurrentText("test_resnet.r160_in1k")  # timm's smallest
    section.stages.setCurrentIndex(section.stages.findData("last"))
    section.again.click()
    finish(widget, qtbot)
    names = [one.name for one in field_layers(widget.session, slide)]
    if len(names) == 2:  # timm knows it
        assert "random weights" in names[1]
    section.visit.click()
    process_events()
    assert viewer.scene.camera.zoom > 1
    section.remove.click()
    assert not field_layers(widget.session, slide)
    assert [one.name for one in viewer.layers] == ["pink.tif"]


def test_classes_of_tiles_lie_where_the_tiles_were(
    viewer: Any, slide: SlideState, widget: VisionWidget, classifier: Path, qtbot: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    section = widget.tiles_section
    section.classify.click()
    assert "No classifier is chosen" in widget.footer.message.text()
    choose(section.folder, tmp_path)
    assert "is no classifier" in section.about.text()
    choose(section.folder, classifier)
    assert section.form.settings() == GridSettings(patch_size=32, target_mpp=2.0)
    left, top, *_ = TISSUE
    show_regions(
        widget.session,
        slide,
        Regions((Region(box(left, top, left + 512, top + 256), "note", "a"),)),
    )
    section.area.box.setCurrentIndex(section.area.box.findText("a"))
    section.classify.click()
    assert finish(widget, qtbot) == "8 tiles of 64 µm were classified."
    found = tile_maps(widget.session, slide)
    layers = tile_layers(widget.session, slide)
    assert found is not None
    names = [section.maps.itemText(i) for i in range(section.maps.count())]
    assert names == ["Most probable class", "stroma", "tumour"]
    answers, tumour = layers["Most probable class"], layers["tumour"]
    assert isinstance(answers, Labels)
    assert isinstance(tumour, HeatmapLayer)
    assert (answers.visible, tumour.visible) == (True, False)
    section.maps.textActivated.emit("tumour")
    assert (answers.visible, tumour.visible) == (False, True)
    for (x, y), p in zip(found.coords, found.probabilities, strict=True):
        middle = (np.array([y, x]) + 64 - 0.5) * MPP  # a tile has 128 level-0 pixels
        assert tumour.get_value(middle, world=True) == pytest.approx(p[1])
        row, col = np.round(answers.world_to_data(middle)).astype(int)  # hidden, but there
        assert answers.data[row, col] == 1 + p.argmax()
    assert {tuple(xy) for xy in found.coords} == {
        (x, y) for x in range(left, left + 512, 128) for y in (top, top + 128)
    }
    section.export_wanted.emit(str(tmp_path / "out"))
    assert "files written" in finish(widget, qtbot)
    assert (tmp_path / "out" / "classes.geojson").is_file()


def test_a_segmentation_belongs_to_the_slide_it_was_started_on(
    viewer: Any, slide: SlideState, widget: VisionWidget, segmenter: Path, no_mpp_path: Path,
    qtbot: Any, tmp_path: Path,
) -> None:  # fmt: skip
    section, session = widget.segment_section, widget.session
    choose(section.file, segmenter)
    section.windows.set_settings(WindowSettings(window=64))
    show_regions(session, slide, Regions((Region(box(256, 384, 1280, 896), "note", "part"),)))
    section.area.box.setCurrentIndex(section.area.box.findText("Rectangle around part"))
    section.segment.click()
    with open_slide(no_mpp_path) as opened:
        other = session.add(opened)
        assert "of pink.tif is done" in finish(widget, qtbot)
        layer = segments_layer(session, slide)
        assert isinstance(layer, Labels)
        assert segments_layer(session, other) is None
        assert not layer.visible
        assert not section.result.isVisibleTo(section)
        session.show(slide)
        process_events()
        assert layer.visible
        session.close(other)
    # 1024 x 512 level-0 pixels of 0.5 µm, in pixels of 4 µm
    found = layer.metadata[SEGMENTS_KEY]
    assert found.labels.shape == (64, 128)
    corner, end = (layer.data_to_world(np.array(at) - 0.5) for at in ((0, 0), (64, 128)))
    np.testing.assert_allclose(corner, (np.array([384, 256]) - 0.5) * MPP)
    np.testing.assert_allclose(end, (np.array([896, 1280]) - 0.5) * MPP)
    # what is drawn has the colours that came with the segmenter
    layer.opacity = 1.0
    picture = canvas_picture(viewer)
    label = found.labels[30:35, 100:105]
    assert (label == label[0, 0]).all()
    world = layer.data_to_world((32, 102))
    seen = colour_at(viewer, picture, world[1], world[0], radius=1)
    np.testing.assert_allclose(seen, INKS[label[0, 0] - 1], atol=12)
    hidden = found.classes[label[0, 0] - 1]
    for row in range(section.legend.count()):
        item = section.legend.item(row)
        assert item is not None
        if item.data(Qt.ItemDataRole.UserRole) == hidden:
            item.setCheckState(Qt.CheckState.Unchecked)
    seen = colour_at(viewer, canvas_picture(viewer), world[1], world[0], radius=1)
    assert np.abs(seen - INKS[label[0, 0] - 1]).max() > 40
    section.export_wanted.emit(str(tmp_path / "classes.ome.tif"))
    assert finish(widget, qtbot) == "Written: classes.ome.tif."
    assert (tmp_path / "classes.ome.tif").is_file()


def test_a_job_is_cancelled_by_the_user_and_with_its_slide(
    viewer: Any, slide: SlideState, widget: VisionWidget, segmenter: Path, qtbot: Any
) -> None:
    section = widget.segment_section
    choose(section.file, segmenter)
    section.windows.set_settings(WindowSettings(window=16, overlap=0.9))  # thousands
    section.area.box.setCurrentIndex(1)  # the whole slide
    section.segment.click()
    assert not section.segment.isEnabled()
    qtbot.waitUntil(lambda: widget.footer.bar.maximum() > 0, timeout=LONG)
    widget.footer.cancel.click()
    assert "goes on from them" in finish(widget, qtbot)
    assert segments_layer(widget.session, slide) is None
    assert section.segment.isEnabled()
    section.segment.click()
    widget.session.close(slide)
    finish(widget, qtbot)
    assert not [one for one in viewer.layers if isinstance(one, Labels | Image)]
    assert not section.segment.isEnabled()
