import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from napari_2dmamba import doctor
from napari_2dmamba.plugin.layers.region_layers import ensure_region_layer
from napari_2dmamba.plugin.npe2.sample import demo_slide
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.plugin.window import app, commands
from napari_2dmamba.plugin.window.keys import KEYS, as_markdown
from napari_2dmamba.plugin.window.last_model import last_model
from napari_2dmamba.plugin.window.menu import add_menu
from napari_2dmamba.sample import demo_checkpoints
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
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "config" / "settings.yaml"))
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"")
    return app.make_viewer([slide_path, broken])


def test_the_window(
    application: app.Application, qtbot: Any, slide_path: Path, monkeypatch: pytest.MonkeyPatch,
    notifications: Callable[[], list[str]],
) -> None:  # fmt: skip
    viewer = application.viewer
    qtbot.waitUntil(lambda: docks.docked(viewer, docks.COMPARE) is not None, timeout=LONG)
    assert docks.seen(viewer, "right") == [application.run_widget]
    assert viewer.title == f"pink.tif - {app.TITLE}"
    docked = {
        "Slides", "Slide overview", "Run 2DMamba", "Inspect 2DMamba", "Regions", "Compare 2DMamba",
    }  # fmt: skip
    assert set(viewer.window.dock_widgets) == {f"{one} (2DMamba)" for one in docked}
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

    # the next start begins with the model chosen last
    section, chosen = application.run_widget.model_section, demo_checkpoints()[-1]
    section.add_checkpoint(chosen)
    assert last_model() == chosen == application.session.choices.checkpoint.path

    # the window stays open where regions would be lost and the user wants them
    session, window = application.session, viewer.window._qt_window
    first = session.slides[0]
    drawn = ensure_region_layer(session, first, "include")
    drawn.add_polygons([np.array([[10, 10], [10, 90], [90, 90.0]])])
    asked: list[str] = []

    def keep_open(box: QMessageBox) -> Any:
        asked.append(box.text())
        return QMessageBox.StandardButton.Cancel

    monkeypatch.setattr(QMessageBox, "exec", keep_open)
    assert not window.close()
    assert window.isVisible()
    assert len(asked) == 1
    assert "pink.tif: Its regions belong to no saved run" in asked[0]
    monkeypatch.setattr(QMessageBox, "exec", lambda box: QMessageBox.StandardButton.Close)

    viewer.layers.clear()
    process_events()
    assert viewer.title == app.TITLE
    get_settings().experimental.async_ = False


def test_the_window_waits_for_no_heavy_package(tmp_path: Path) -> None:
    code = """
import sys, threading
class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread() and name in HEAVY:
            print("the window waits for", name)
HEAVY = ("torch", "matplotlib", "scipy.optimize", "scipy.ndimage")
sys.meta_path.insert(0, Watch())
import napari
from napari_2dmamba.cli import main
def run():
    print("there")
    napari.current_viewer().close()
napari.run = run  # the window is shown, and would now answer
sys.exit(main(["view"]))
"""
    environment = {**os.environ, "NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "there"


def test_an_idle_gpu_is_told_of_when_torch_is_loaded(
    make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    said = []
    session = Session.of(make_napari_viewer())
    session.events.said.connect(lambda text, kind: said.append((text, kind)))
    monkeypatch.setattr(doctor, "has_nvidia_driver", lambda: False)
    app.advise_on_gpu(session)
    assert not said
    monkeypatch.setattr(doctor, "has_nvidia_driver", lambda: True)
    app.advise_on_gpu(session)
    ((text, kind),) = said
    assert "install" in text
    assert kind == "info"


def test_settings_are_kept_apart() -> None:
    code = (
        "from napari_2dmamba.plugin.window.app import keep_settings_apart; import os, sys;"
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


def test_napari_s_own_menu_makes_no_second_widget(make_napari_viewer: Any) -> None:
    from napari.plugins import menu_item_template
    from npe2 import PluginManager

    manifest = PluginManager.instance().get_manifest("napari-2dmamba")
    theirs = {
        menu_item_template.format(manifest.display_name, one.display_name)
        for one in manifest.contributions.widgets or []
    }
    assert {one.name for one in docks.ALL} == theirs


def test_keys(make_napari_viewer: Any, slide_path: Path, tmp_path: Path, qtbot: Any) -> None:
    from qtpy.QtGui import QAction

    viewer = make_napari_viewer()
    menu = add_menu(viewer)
    actions = {one.text(): one for one in [*menu.actions(), *viewer.window.help_menu.actions()]}
    for key in KEYS:
        assert actions[key.title].shortcut().toString() == key.keys
    of_napari = {
        one.shortcut().toString()
        for one in viewer.window._qt_window.findChildren(QAction)
        if one not in actions.values()
    }
    assert of_napari.isdisjoint(key.keys for key in KEYS)
    other = tmp_path / "other.tif"
    other.write_bytes(slide_path.read_bytes())
    session = Session.of(viewer)
    session.open([slide_path, other])
    first, second = session.slides
    for title, slide in (
        ("Next slide", second), ("Previous slide", first), ("Previous slide", first),
        ("Next slide", second),
    ):  # fmt: skip
        actions[title].trigger()
        assert session.current is slide
    said: list[str] = []
    session.events.said.connect(lambda sentence, kind: said.append(sentence))
    actions["Show or hide the map"].trigger()
    assert "no run on display" in said[-1]
    docks.docked(viewer, docks.RUN).let_go()


def test_the_page_of_keys_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "keys.md"
    assert as_markdown() in page.read_text(encoding="utf-8")


def test_what_does_not_fit_below_the_slide_lies_over_it(
    application: app.Application, qtbot: Any
) -> None:
    viewer, window = application.viewer, application.viewer.window._qt_window
    before = window.size()
    widget = docks.show(viewer, docks.CHECKPOINTS)
    dock = docks.dock_of(widget)
    room = window.screen().availableGeometry()
    if dock.isFloating():  # the screen of the test decides
        process_events()
        assert room.contains(dock.geometry().center())
        assert dock.height() <= room.height()
    else:
        assert window.minimumSizeHint().height() <= room.height()
    qtbot.waitUntil(lambda: window.size() == before or not dock.isFloating(), timeout=LONG)
    assert docks.show(viewer, docks.CHECKPOINTS) is widget
    get_settings().experimental.async_ = False


def test_the_width_comes_back_when_a_dock_closes(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1400, 700)
    run = docks.dock_of(docks.show(viewer, docks.RUN))
    window = viewer.window._qt_window
    process_events()
    window.resizeDocks([run], [400], Qt.Orientation.Horizontal)
    process_events()
    before = run.width()
    inspect = docks.dock_of(docks.show(viewer, docks.INSPECT))
    window.resizeDocks([inspect], [700], Qt.Orientation.Horizontal)
    process_events()
    inspect.destroyOnClose()
    qtbot.waitUntil(lambda: run.width() == before, timeout=LONG)
    docks.docked(viewer, docks.RUN).let_go()
