"""What is used of napari beyond its public interface is still there, name by name.

A newer napari without one of these fails the test of that name, which says what of ours stands on
it, rather than a widget somewhere.
"""

import ast
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Layer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

import napari_2dmamba
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer

PLUGIN = Path(napari_2dmamba.__file__).parent / "plugin"

OVERRIDDEN = {
    "_type_string": [],
    "_raw_to_displayed": ["raw"],
    "_calc_data_range": ["mode"],
    "_update_thumbnail": [],
}
"""What `HeatmapLayer` replaces in napari's image layer, with its parameters."""

USED = {
    "_block_refresh": "HeatmapLayer changes several things and is drawn once",
    "_slice": "HeatmapLayer makes no thumbnail before it has a slice",
    "_thumbnail_shape": "HeatmapLayer sizes its thumbnail",
    "_qt_window": "the menu, the docks' sizes, drops and the window's own size",
    "_qt_viewer": "drops on the canvas, and napari's own docks in tabs",
    "_welcome_widget": "drops on the welcome screen",
}
"""What is called or read, and for what."""


def parents(name: str) -> list[type]:
    """Return the classes of napari that have what `HeatmapLayer` replaces."""
    return [c for c in Image.__mro__ if c.__module__.startswith("napari.") and name in vars(c)]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_the_heatmap_layer_replaces_is_there(name: str) -> None:
    assert parents(name), f"napari's Image has no {name} any more: HeatmapLayer replaces nothing"
    theirs = inspect.getattr_static(parents(name)[0], name)
    if isinstance(theirs, property):
        assert isinstance(inspect.getattr_static(HeatmapLayer, name), property)
        assert not OVERRIDDEN[name]
        return
    takes = [p for p in inspect.signature(theirs).parameters if p != "self"]
    assert takes == OVERRIDDEN[name], f"napari calls {name} with {takes} now"


@pytest.fixture
def window(make_napari_viewer: Any) -> Any:
    return make_napari_viewer().window


@pytest.mark.parametrize("name", ["_block_refresh", "_slice", "_thumbnail_shape"])
def test_what_is_used_of_a_layer_is_there(name: str) -> None:
    layer = Image(np.zeros((2, 3)))
    assert hasattr(layer, name), f"napari's Layer has no {name} any more: {USED[name]}"
    if name == "_block_refresh":
        with layer._block_refresh():
            layer.gamma = 0.5
    elif name == "_slice":
        assert isinstance(layer._slice.empty, bool)
    else:
        assert len(layer._thumbnail_shape) == 3


def test_what_is_used_of_the_window_is_there(window: Any) -> None:
    """One window for all of it: a window takes a second."""
    missing = []
    if not isinstance(getattr(window, "_qt_window", None), QMainWindow):
        missing.append("_qt_window")
    elif not isinstance(canvas := getattr(window._qt_window, "_qt_viewer", None), QWidget):
        missing.append("_qt_viewer")
    else:
        for name in ("dockLayerList", "dockLayerControls"):
            if not isinstance(getattr(canvas, name, None), QDockWidget):
                missing.append(f"_qt_viewer.{name}")
        if not isinstance(getattr(canvas, "_welcome_widget", None), QWidget):
            missing.append("_welcome_widget")
        dock = window.add_dock_widget(QWidget(), name="one", area="left")
        if not hasattr(getattr(dock, "title", None), "title"):
            missing.append("the title bar of a dock: title.title")
    why = [f"{name} ({USED.get(name, 'docks.py')})" for name in missing]
    assert not missing, f"napari's window has no more: {', '.join(why)}"


def test_all_that_is_private_is_on_these_lists() -> None:
    """A new use of something private gets its line above."""
    used, ours = set(), set()
    for path in PLUGIN.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    ours.add(name)
                case ast.Attribute(attr=name, ctx=ast.Store()):
                    ours.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    ours.add(name)
                case ast.Attribute(attr=name):
                    used.add(name)
                case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name), *_]):
                    used.add(name)
    private = {name for name in used - ours if name.startswith("_") and not name.startswith("__")}
    assert private == set(USED)

    def descendants(c: type) -> set[type]:
        return {c}.union(*(descendants(one) for one in c.__subclasses__()))

    mine = [c for c in descendants(Layer) if c.__module__.startswith("napari_2dmamba.")]
    replaced = {
        name
        for c in mine
        for name in vars(c)
        if name.startswith("_") and not name.startswith("__") and name != "_abc_impl"
        if parents(name)
    }
    assert replaced == set(OVERRIDDEN)
