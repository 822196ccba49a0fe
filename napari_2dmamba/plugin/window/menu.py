"""The menu *2DMamba* of the standalone viewer: what the keys do, and all widgets."""

from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtWidgets import QMenu

from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.window.keys import KEYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ReferenceType

    from napari.viewer import Viewer


def add_menu(viewer: "Viewer") -> QMenu:
    """Add the menu before *Help*; the keys work wherever in the window the focus is."""
    window = viewer.window._qt_window  # napari has no public way to add a menu
    bar, help_menu = window.menuBar(), viewer.window.help_menu
    menu = QMenu("2&DMamba", window)
    bar.insertMenu(help_menu.menuAction(), menu)
    weakly = ref(viewer)
    for key in KEYS:
        action = QAction(key.title, window)
        action.setShortcut(QKeySequence(key.keys))
        action.setToolTip(key.what)
        action.triggered.connect(partial(_call, weakly, key.run))
        (help_menu if key.title == "Keys" else menu).addAction(action)
    menu.addSeparator()
    for dock in docks.ALL:
        action = QAction(dock.title, window)
        action.triggered.connect(partial(_call, weakly, partial(docks.show, dock=dock)))
        menu.addAction(action)
    return menu


def _call(
    weakly: "ReferenceType[Viewer]", run: "Callable[[Viewer], object]", checked: bool = False
) -> None:
    viewer = weakly()
    if viewer is not None:
        run(viewer)
