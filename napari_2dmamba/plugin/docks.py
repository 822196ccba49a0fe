"""The docked widgets by name: found, made where there is none, and raised.

A widget that leads to another one asks here, so that widgets import nothing of one another.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QDockWidget, QWidget

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
    def widget_class(self) -> type[QWidget]:
        """The class, imported when it is asked for."""
        module, name = self.python_name.split(":")
        return getattr(import_module(module), name)


_HERE = "napari_2dmamba.plugin"
OVERVIEW = Dock("Slide overview", f"{_HERE}.overview:SlideOverview", "left")
RUN = Dock("Run 2DMamba", f"{_HERE}.run_widget:RunWidget", "right")
INSPECT = Dock("Inspect 2DMamba", f"{_HERE}.inspect_widget:InspectWidget", "right")
COMPARE = Dock("Compare 2DMamba", f"{_HERE}.compare_widget:CompareWidget", "right")
COHORT = Dock("Cohort 2DMamba", f"{_HERE}.cohort_widget:CohortWidget", "bottom")
TRAINING = Dock("Train 2DMamba", f"{_HERE}.training_widget:TrainingWidget", "bottom")
CHECKPOINTS = Dock("Checkpoints", f"{_HERE}.checkpoints_widget:CheckpointsWidget", "bottom")


def docked(viewer: "Viewer", dock: Dock) -> Any:
    """Return the widget of the window, or None while there is none."""
    widgets = viewer.window.dock_widgets.values()
    return next((one for one in widgets if isinstance(one, dock.widget_class)), None)


def show(viewer: "Viewer", dock: Dock) -> Any:
    """Bring a widget to the front, docked when there is none; returns it."""
    widget = docked(viewer, dock)
    if widget is not None:
        raise_dock(widget)
        return widget
    widget = dock.widget_class(viewer)
    in_tabs = dock.area != "left"  # where napari's own docks are
    viewer.window.add_dock_widget(widget, name=dock.title, area=dock.area, tabify=in_tabs)
    raise_dock(widget)
    return widget


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
