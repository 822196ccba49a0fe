"""The Inspect widget in a real window, on the sample slide with the demo model."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QPoint, Qt

from napari_2dmamba.pipeline import run
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.sample import demo_checkpoint, sample_slide
from tests.plugin.conftest import LONG, process_events
from tests.plugin.run_widget import viewer

__all__ = ["viewer"]  # a fixture

CYAN = (0, 213, 255)


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features are extracted once for all tests of this file."""
    folder = tmp_path_factory.mktemp("runs") / "sample"
    run(sample_slide(), demo_checkpoint(), out=folder)
    return folder


@pytest.fixture
def folder(sample_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample_run, tmp_path / "sample")


@pytest.fixture
def widgets(viewer: Any) -> Iterator[tuple[RunWidget, InspectWidget]]:
    run_widget = RunWidget(viewer)
    viewer.window.add_dock_widget(run_widget, name="Run 2DMamba", area="right")
    inspect = InspectWidget(viewer)
    viewer.window.add_dock_widget(inspect, name="Inspect 2DMamba", area="right", tabify=True)
    yield run_widget, inspect
    inspect.let_go()
    run_widget.let_go()


@pytest.fixture
def inspect(
    widgets: tuple[RunWidget, InspectWidget], viewer: Any, folder: Path, qtbot: Any
) -> InspectWidget:
    """The widget with the run of the sample slide open and the mode on; provenance only."""
    run_widget, inspect = widgets
    run_widget.open_saved_run(folder)
    qtbot.waitUntil(lambda: run_widget.shown is not None, timeout=LONG)
    inspect.map_list.tick("erf", False)
    inspect.mode.click()
    settle(inspect, qtbot)
    return inspect


def settle(inspect: InspectWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not inspect.is_busy, timeout=3 * LONG)
    process_events()


def click(
    viewer: Any, qtbot: Any, x: float, y: float, modifier: Any = Qt.KeyboardModifier.NoModifier
) -> None:
    """Click the world point ``x, y`` on the canvas."""
    camera, (height, width) = viewer.scene.camera, viewer.canvas.size
    center_y, center_x = camera.center[-2:]
    at = QPoint(
        round(width / 2 + (x - center_x) * camera.zoom),
        round(height / 2 + (y - center_y) * camera.zoom),
    )
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.mouseMove(canvas, at)
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, modifier, at)


def world(inspect: InspectWidget, patch: int) -> tuple[float, float]:
    """World ``x, y`` of the centre of a patch, from the features' coordinates alone."""
    bag = inspect.live.inspected.subject.bag  # type: ignore[union-attr]
    x, y = bag.coords[patch] + (bag.patch_size_level0 - 1) / 2
    return x * 0.5, y * 0.5


def heatmaps(viewer: Any) -> dict[str, HeatmapLayer]:
    return {one.name: one for one in viewer.layers if isinstance(one, HeatmapLayer)}
