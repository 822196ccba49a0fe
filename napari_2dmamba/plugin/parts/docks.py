"""The docked widgets by name: found, made where there is none, and raised.

A widget that leads to another one asks here, so that widgets import nothing of one another.
"""

import contextlib
import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRect, QSize, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

if TYPE_CHECKING:
    from napari.viewer import Viewer


@dataclass(frozen=True)
class Dock:
    """A widget and where it is docked.

    Attributes
    ----------
    title
        Name of the dock.
    python_name
        ``module:class``, as in the manifest.
    area
        Where it is docked: ``"left"``, ``"right"`` or ``"bottom"``.
    """

    title: str
    python_name: str
    area: str

    @property
    def name(self) -> str:
        """Name of the dock as napari's own menu gives it, which then makes no second one."""
        return f"{self.title} ({PLUGIN_TITLE})"

    @property
    def module(self) -> str:
        """Where the class is."""
        return self.python_name.split(":")[0]

    @property
    def widget_class(self) -> type[QWidget]:
        """The class, imported when it is asked for."""
        return getattr(import_module(self.module), self.python_name.split(":")[1])


PLUGIN_TITLE = "2DMamba"
"""``display_name`` in the manifest."""

SMALL_SCREEN = 1000
"""Height of a screen, in pixels, below which the docks on the left do not fit one below another."""

_HERE = "napari_2dmamba.plugin"
SLIDES = Dock("Slides", f"{_HERE}.slides_widget:SlidesWidget", "left")
OVERVIEW = Dock("Slide overview", f"{_HERE}.overview:SlideOverview", "left")
RUN = Dock("Run 2DMamba", f"{_HERE}.run_widget:RunWidget", "right")
INSPECT = Dock("Inspect 2DMamba", f"{_HERE}.inspect_widget:InspectWidget", "right")
REGIONS = Dock("Regions", f"{_HERE}.regions_widget:RegionsWidget", "right")
COMPARE = Dock("Compare 2DMamba", f"{_HERE}.compare_widget:CompareWidget", "right")
VISION = Dock("Image networks", f"{_HERE}.vision_widget:VisionWidget", "right")
COHORT = Dock("Cohort 2DMamba", f"{_HERE}.cohort_widget:CohortWidget", "bottom")
TRAINING = Dock("Train 2DMamba", f"{_HERE}.training_widget:TrainingWidget", "bottom")
CHECKPOINTS = Dock("Checkpoints", f"{_HERE}.checkpoints_widget:CheckpointsWidget", "bottom")

ALL = (SLIDES, OVERVIEW, RUN, INSPECT, REGIONS, COMPARE, VISION, COHORT, TRAINING, CHECKPOINTS)
"""In the order of the menu."""

_AREAS = {
    "left": Qt.DockWidgetArea.LeftDockWidgetArea,
    "right": Qt.DockWidgetArea.RightDockWidgetArea,
    "bottom": Qt.DockWidgetArea.BottomDockWidgetArea,
}


def docked(viewer: "Viewer", dock: Dock) -> Any:
    """Return the widget of the window, or None while there is none."""
    if dock.module not in sys.modules:  # importing one only to find none would take seconds
        return None
    widgets = viewer.window.dock_widgets.values()
    return next((one for one in widgets if isinstance(one, dock.widget_class)), None)


def seen(viewer: "Viewer", area: str) -> list[QWidget]:
    """Return the widgets of an area that no other tab hides."""
    holders = _visible(viewer.window._qt_window, _AREAS[area])
    widgets = viewer.window.dock_widgets.values()
    return [
        one
        for one in widgets
        if dock_of(one) in holders and not dock_of(one).visibleRegion().isEmpty()
    ]


def show(viewer: "Viewer", dock: Dock) -> Any:
    """Bring a widget to the front, docked when there is none; returns it."""
    widget = docked(viewer, dock)
    if widget is not None:
        raise_dock(widget)
        return widget
    window = viewer.window._qt_window  # napari's public parts do not tell of sizes and tabs
    area = _AREAS[dock.area]
    beside, size, least = _visible(window, area), window.size(), window.minimumSizeHint()
    fresh: Any = dock.widget_class(viewer)
    in_tabs = dock.area != "left"  # where napari's own docks are
    made = viewer.window.add_dock_widget(fresh, name=dock.name, area=dock.area, tabify=in_tabs)
    made.setWindowTitle(dock.title.removesuffix(f" {PLUGIN_TITLE}"))  # tabs are narrow
    made.title.title.setText(dock.title)
    height = least.height() + made.minimumSizeHint().height()
    if dock.area == "bottom" and height > _room(window).height():
        _float(window, made)
        QTimer.singleShot(0, partial(_resize, window, size))  # it had made room for the dock
    elif beside:
        give_back = partial(_give_back, window, area, beside[0].size())
        fresh.undocked.connect(partial(QTimer.singleShot, 0, give_back))
    raise_dock(fresh)
    return fresh


def share_places(viewer: "Viewer") -> None:
    """Put docks on the left into tabs, for a screen too low for four of them."""
    window = viewer.window._qt_window
    napari = window._qt_viewer
    slides, overview = docked(viewer, SLIDES), docked(viewer, OVERVIEW)
    window.tabifyDockWidget(napari.dockLayerList, napari.dockLayerControls)
    if slides is not None and overview is not None:
        window.tabifyDockWidget(dock_of(overview), dock_of(slides))
    napari.dockLayerList.raise_()


def is_small_screen(window: QWidget) -> bool:
    """Return whether a window is on a screen too low for all docks on the left."""
    return _room(window).height() < SMALL_SCREEN


def _room(window: QWidget) -> QRect:
    screen = window.screen()
    assert screen is not None, "a window is always on a screen"
    return screen.availableGeometry()


def _float(window: QMainWindow, dock: QDockWidget) -> None:
    """Let a dock lie over the window, within the screen."""
    room = _room(window)
    dock.setFloating(True)
    dock.resize(min(1000, room.width() - 120), min(560, room.height() - 120))
    dock.move(room.center() - dock.rect().center())


def _resize(window: QMainWindow, size: QSize) -> None:
    with contextlib.suppress(RuntimeError):  # it has gone
        window.resize(size)


def _visible(window: QMainWindow, area: Qt.DockWidgetArea) -> list[QDockWidget]:
    return [
        one
        for one in window.findChildren(QDockWidget)
        if window.dockWidgetArea(one) == area and one.isVisible() and not one.isFloating()
    ]


def _give_back(window: QMainWindow, area: Qt.DockWidgetArea, before: QSize) -> None:
    """Let an area have the size it had before a dock came that is gone now."""
    with contextlib.suppress(RuntimeError):  # the window itself has gone
        left = _visible(window, area)[:1]
        across = area == _AREAS["bottom"]
        size = before.height() if across else before.width()
        how = Qt.Orientation.Vertical if across else Qt.Orientation.Horizontal
        window.resizeDocks(left, [size] * len(left), how)


def raise_dock(widget: QWidget) -> None:
    """Show the dock that holds a widget, before others in the same tabs."""
    dock = dock_of(widget)
    dock.show()
    dock.raise_()


def dock_of(widget: QWidget) -> QDockWidget:
    """Return the dock that holds a docked widget."""
    dock = widget.parentWidget()
    while not isinstance(dock, QDockWidget):
        assert dock is not None, "the widget is not docked"
        dock = dock.parentWidget()
    return dock
