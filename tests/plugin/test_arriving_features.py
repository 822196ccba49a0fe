"""Features that appear on the slide while they are computed; pausing, cancelling, going on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_2dmamba.explain.feature_colours import FeatureColours
from napari_2dmamba.features import extract_features
from napari_2dmamba.pipeline import RunSettings, prepare_grid
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.run_widget.arriving_features import (
    LAYER_NAME,
    ArrivingFeatures,
    arriving_layer,
)
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.slide import GridSettings, Slide, open_slide
from tests.plugin.conftest import (
    LONG,
    MPP,
    add_slide,
    canvas_picture,
    colour_at,
    light_window,
    process_events,
)
from tests.tiny import write_checkpoint

SIDE = 64  # level-0 pixels at the checkpoint's 0.5 µm/px: 16 x 12 patches on tissue


@pytest.fixture
def slide(slide_path: Path) -> Iterator[Slide]:
    with open_slide(slide_path) as slide:
        yield slide


@pytest.fixture
def widget(
    make_napari_viewer: Any, slide: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunWidget]:
    from napari.settings import get_plugin_settings

    monkeypatch.setattr(
        get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(tmp_path / "runs")
    )
    viewer = light_window(make_napari_viewer, 1300, 900)
    widget = RunWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Run 2DMamba", area="right")
    widget.model_section.add_checkpoint(write_checkpoint(tmp_path / "tiny.safetensors"))
    widget.features_section.encoder_form.form.editor("batch_size").set(1)
    add_slide(viewer, slide)
    yield widget
    widget.let_go()


def start_and_pause(widget: RunWidget, qtbot: Any, beyond: int = 0) -> int:
    """Run, pause in the middle, and return how many patches are there."""
    qtbot.mouseClick(widget.footer.run, Qt.MouseButton.LeftButton)
    job = widget.jobs.job
    assert job is not None

    def pause(done: int, total: int, message: str) -> None:
        if done > beyond and not widget.footer.pause.isChecked():
            widget.footer.pause.click()

    job.progressed.connect(pause)
    with qtbot.waitSignal(job.held, timeout=LONG):
        pass
    job.progressed.disconnect(pause)
    process_events()
    assert widget.footer.run.text() == "Paused"
    assert widget.footer.pause.text() == "Resume"
    qtbot.waitUntil(lambda: LAYER_NAME in widget._viewer.layers, timeout=LONG)
    return int((widget._viewer.layers[LAYER_NAME].data[..., 3] > 0).sum())


def test_features_arrive_on_the_slide_and_a_pause_holds_them(
    widget: RunWidget, slide: Slide, qtbot: Any
) -> None:
    viewer = widget._viewer
    (slide_layer,) = viewer.layers
    done = start_and_pause(widget, qtbot)
    layer = viewer.layers[LAYER_NAME]
    settings = RunSettings(grid=GridSettings(patch_size=SIDE, target_mpp=MPP))
    assert settings.grid is not None
    _, grid = prepare_grid(slide, settings, settings.grid, None)
    assert 0 < done < len(grid)
    assert "paused" in widget.footer.detail.text()
    qtbot.wait(700)  # more than two updates
    assert int((layer.data[..., 3] > 0).sum()) == done
    assert viewer.layers.selection.active is slide_layer  # the user works on, undisturbed

    # the patches that are there, in the colours of their features
    expected = FeatureColours(len(grid))
    bag = extract_features(slide, grid)
    for index in range(done):
        expected.add(index, bag.features[index : index + 1], np.ones(1, bool))
    shown = layer.data[tuple(grid.cells.T)]
    np.testing.assert_array_equal(shown[:, 3] > 0, np.arange(len(grid)) < done)
    np.testing.assert_allclose(shown[:, :3].astype(int), expected.rgba[:, :3], atol=3)

    # and in their places on screen
    layer.data[...] = 0
    layer.data[tuple(grid.cells[0])] = [0, 0, 255, 255]
    layer.opacity = 1.0
    layer.refresh()
    picture = canvas_picture(viewer)
    x, y = (grid.coords[0] + SIDE / 2 - 0.5) * MPP
    assert colour_at(viewer, picture, x, y, radius=2) == pytest.approx([0, 0, 255], abs=10)
    assert colour_at(viewer, picture, x + SIDE * MPP, y, radius=2)[0] > 100

    widget.footer.pause.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=LONG)
    assert widget.footer.message.text() == ""
    session = Session.of(viewer)
    assert arriving_layer(session, session.slides[0]) is None  # the map has taken its place
    assert any(isinstance(one, HeatmapLayer) for one in viewer.layers)
    assert widget.shown is not None
    assert widget.shown.bag is not None
    np.testing.assert_array_equal(widget.shown.bag.features, bag.features)


def test_cancelled_in_a_pause_it_goes_on_from_there(widget: RunWidget, qtbot: Any) -> None:
    viewer = widget._viewer
    done = start_and_pause(widget, qtbot)
    widget.footer.cancel.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=LONG)
    assert "kept for the next run" in widget.footer.message.text()
    layer = viewer.layers[LAYER_NAME]  # what is kept stays in sight
    assert int((layer.data[..., 3] > 0).sum()) == done
    assert widget.footer.run.text() == "Run 2DMamba"
    again = start_and_pause(widget, qtbot, beyond=done)
    assert again > done
    assert viewer.layers[LAYER_NAME] is layer
    widget.footer.pause.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=LONG)
    assert widget.shown is not None


def test_closing_the_dock_in_a_pause(widget: RunWidget, slide: Slide, qtbot: Any) -> None:
    viewer = widget._viewer
    start_and_pause(widget, qtbot)
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not widget.is_running, timeout=LONG)
    viewer.layers.clear()


def test_a_window_that_lets_go_in_the_middle_of_a_batch_fails_no_run(
    make_napari_viewer: Any, slide: Slide
) -> None:
    """As where the dock is closed between two looks of the extraction's thread."""
    viewer = make_napari_viewer()
    session = Session.of(viewer)
    state = session.add(slide)
    grid = prepare_grid(slide, RunSettings(), GridSettings(patch_size=SIDE), None)[1]

    class LetsGo(ArrivingFeatures):
        looks = 0

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name == "_colours" and found is not None:
                type(self).looks += 1
                return found if type(self).looks == 1 else None
            return found

    arriving = LetsGo(session, state, viewer.window._qt_window)
    arriving.on_batch(grid, 0, np.zeros((2, 3), np.float32), np.ones(2, bool))
    assert arriving.looks == 1
    arriving.let_go()
