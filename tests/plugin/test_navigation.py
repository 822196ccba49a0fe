from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_2dmamba.plugin.overview import SlideOverview
from napari_2dmamba.plugin.parts.magnification import MagnificationBar, objective, zoom_for
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import LONG, PINK, add_slide, process_events


def test_the_convention_of_scanners() -> None:
    assert objective(zoom=1.0) == 10  # 10x is 1 µm per pixel
    assert objective(zoom=4.0) == 40  # 40x is 0.25 µm per pixel
    assert objective(zoom=2.0, device_pixel_ratio=2.0) == 40
    assert zoom_for(objective(0.37, 1.5), 1.5) == pytest.approx(0.37)


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(900, 700)
    return viewer


def test_presets_and_readout(viewer: Any, qtbot: Any, slide_path: Path, no_mpp_path: Path) -> None:
    bar = MagnificationBar(Session.of(viewer))
    qtbot.addWidget(bar)
    assert bar.readout.text() == "No slide open"
    with open_slide(slide_path) as slide, open_slide(no_mpp_path) as unknown:
        add_slide(viewer, slide)
        bar.refresh()
        bar.buttons[20].click()
        ratio = bar.devicePixelRatioF()
        assert viewer.scene.camera.zoom == pytest.approx(2.0 / ratio)
        assert bar.readout.text() == "<b>20×</b> · 0.5 µm per pixel"
        viewer.layers.clear()
        add_slide(viewer, unknown)
        bar.refresh()
        assert not bar.buttons[20].isEnabled()
        assert "unknown" in bar.readout.text()


def test_the_overview_shows_the_view_and_moves_it(
    viewer: Any, qtbot: Any, slide_path: Path
) -> None:
    overview = SlideOverview(viewer)
    viewer.window.add_dock_widget(overview, area="left")
    with open_slide(slide_path) as slide:
        add_slide(viewer, slide)
        thumbnail = overview.thumbnail
        qtbot.waitUntil(lambda: not thumbnail.picture_rect().isEmpty(), timeout=LONG)
        camera = viewer.scene.camera
        camera.zoom = 2.0
        camera.center = (0.0, 384.0, 512.0)  # the middle of 1024 x 768 µm
        view = thumbnail.view
        assert view.center().x() == pytest.approx(0.5)
        assert view.center().y() == pytest.approx(0.5)
        assert view.width() == pytest.approx(viewer.canvas.size[1] / 2 / 1024)
        assert view.height() == pytest.approx(viewer.canvas.size[0] / 2 / 768)
        box = thumbnail.picture_rect()
        point = QPoint(round(box.x() + box.width() / 4), round(box.y() + 3 * box.height() / 4))
        qtbot.mouseClick(thumbnail, Qt.MouseButton.LeftButton, pos=point)
        assert camera.center[-1] == pytest.approx(256, abs=8)
        assert camera.center[-2] == pytest.approx(576, abs=8)
        process_events()
        picture = thumbnail.grab().toImage()
        middle = picture.pixelColor(round(box.center().x()), round(box.center().y()))
        found = [middle.red(), middle.green(), middle.blue()]
        np.testing.assert_allclose(found, PINK, atol=15)


def test_a_closed_overview_lets_go_of_the_viewer(viewer: Any, slide_path: Path) -> None:
    overview = SlideOverview(viewer)
    dock = viewer.window.add_dock_widget(overview, area="left")
    process_events()
    viewer.window.remove_dock_widget(dock)
    process_events()
    with open_slide(slide_path) as slide:
        add_slide(viewer, slide)
        viewer.scene.camera.zoom = 3.0
    assert overview.thumbnail.view is None
