import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari.settings import get_settings

from napari_2dmamba.plugin import app, commands, docks
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.sample import demo_slide
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import LONG, PINK, add_slide, canvas_picture, colour_at, process_events


@pytest.fixture
def application(
    make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch, slide_path: Path, tmp_path: Path
) -> app.Application:
    """The standalone window, made through napari's test fixture so that it is cleaned up."""
    import napari

    def viewer(**options: Any) -> Any:
        return make_napari_viewer(**options)

    monkeypatch.setattr(napari, "Viewer", viewer)
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"")
    return app.make_viewer([slide_path, broken])


def test_the_window(
    application: app.Application, qtbot: Any, slide_path: Path,
    notifications: Callable[[], list[str]],
) -> None:  # fmt: skip
    viewer = application.viewer
    process_events()
    assert viewer.title == f"pink.tif - {app.TITLE}"
    docked = {
        "Slide overview", "Run 2DMamba", "Inspect 2DMamba", "Compare 2DMamba", "Cohort 2DMamba",
        "Train 2DMamba",
    }  # fmt: skip
    assert set(viewer.window.dock_widgets) == docked
    assert not application.training_widget.isVisible()
    assert not application.cohort_widget.isVisible()  # one slide is what most begin with
    assert len(application.problems) == 1
    assert "broken.svs" in application.problems[0]
    assert get_settings().experimental.async_
    (layer,) = viewer.layers
    qtbot.waitUntil(lambda: layer.loaded, timeout=LONG)
    picture = canvas_picture(viewer)
    assert colour_at(viewer, picture, 500, 450) == pytest.approx(PINK, abs=12)
    # the whole slide is in view, for the camera was set when the window had its size
    extent = layer.extent.world[1] * viewer.scene.camera.zoom
    assert max(extent / viewer.canvas.size) == pytest.approx(0.95, abs=0.06)

    # what drag and drop and File > Open call: no question, our reader
    (dropped,) = viewer.open([str(slide_path)], plugin=None)
    assert dropped.metadata["slide"].path == slide_path

    assert docks.show(viewer, docks.RUN) is application.run_widget
    viewer.layers.clear()
    process_events()
    assert viewer.title == app.TITLE
    get_settings().experimental.async_ = False


def test_settings_are_kept_apart() -> None:
    code = (
        "from napari_2dmamba.plugin.app import keep_settings_apart; import os, sys;"
        "keep_settings_apart(); print(os.environ['NAPARI_CONFIG']);"
        "assert 'napari' not in sys.modules;"
        "from napari.settings import get_settings; print(get_settings().config_path)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NAPARI_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    wanted, used = done.stdout.split()
    assert wanted == used
    assert "napari-2dmamba" in wanted


def test_the_run_widget_is_made_where_there_is_none(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    widget = docks.show(viewer, docks.RUN)
    assert isinstance(widget, RunWidget)
    assert docks.show(viewer, docks.RUN) is widget
    widget.let_go()


def test_saving_the_view(
    make_napari_viewer: Any, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    notifications: Callable[[], list[str]],
) -> None:  # fmt: skip
    from PIL import Image
    from qtpy.QtWidgets import QFileDialog

    viewer = make_napari_viewer(show=True)
    with open_slide(slide_path) as slide:
        add_slide(viewer, slide)
        for name, told in (("view", "Written"), ("no/view", "cannot be written")):
            choice = (str(tmp_path / name), "")
            monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, c=choice: c)
            commands.save_view(viewer)
            assert told in notifications()[-1]
    with Image.open(tmp_path / "view.png") as picture:
        assert picture.size == (viewer.canvas.size[1], viewer.canvas.size[0])


def test_the_demo_slide_opens() -> None:
    ((levels, options, _),) = demo_slide()
    assert options["units"] == ("µm", "µm")
    assert levels[0].ndim == 3
