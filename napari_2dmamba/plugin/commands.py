"""Menu commands."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QWidget

    from napari_2dmamba.plugin.checkpoints_widget import CheckpointsWidget
    from napari_2dmamba.plugin.cohort_widget import CohortWidget
    from napari_2dmamba.plugin.run_widget import RunWidget

RUN_WIDGET_NAME = "Run 2DMamba"
INSPECT_WIDGET_NAME = "Inspect 2DMamba"
COHORT_WIDGET_NAME = "Cohort 2DMamba"
COMPARE_WIDGET_NAME = "Compare 2DMamba"
CHECKPOINTS_WIDGET_NAME = "Checkpoints"


def open_run(viewer: "Viewer") -> None:
    """Ask for the folder of a saved run and show it."""
    run_widget(viewer).export_section.open.click()


def save_view(viewer: "Viewer") -> None:
    """Save what the canvas shows as a PNG, at the size of the screen.

    napari's own export draws the full resolution of every layer, which no graphics card can do
    for a slide.
    """
    from napari.utils.notifications import show_error, show_info
    from qtpy.QtWidgets import QFileDialog

    path, _ = QFileDialog.getSaveFileName(None, "Save the view", "view.png", "PNG (*.png)")
    if not path:
        return
    path = path if path.lower().endswith(".png") else f"{path}.png"
    try:
        viewer.screenshot(path, canvas_only=True, flash=False)
    except OSError as error:
        show_error(f"{path} cannot be written: {error.strerror or error}")
        return
    show_info(f"Written: {path}")


def run_widget(viewer: "Viewer") -> "RunWidget":
    """Return the Run widget of the window, docked when there is none yet."""
    from napari_2dmamba.plugin.run_widget import RunWidget

    widget = docked_run_widget(viewer)
    if widget is None:
        widget = RunWidget(viewer)
        viewer.window.add_dock_widget(widget, name=RUN_WIDGET_NAME, area="right")
    return widget


def show_cohort(viewer: "Viewer") -> "CohortWidget":
    """Bring the cohort widget to the front, docked below the slide when there is none."""
    from napari_2dmamba.plugin.cohort_widget import CohortWidget

    for widget in viewer.window.dock_widgets.values():
        if isinstance(widget, CohortWidget):
            raise_dock(widget)
            return widget
    widget = CohortWidget(viewer)
    viewer.window.add_dock_widget(widget, name=COHORT_WIDGET_NAME, area="bottom", tabify=True)
    return widget


def docked_run_widget(viewer: "Viewer") -> "RunWidget | None":
    """Return the Run widget of the window, or None."""
    from napari_2dmamba.plugin.run_widget import RunWidget

    docked = viewer.window.dock_widgets.values()
    return next((widget for widget in docked if isinstance(widget, RunWidget)), None)


def show_checkpoints(viewer: "Viewer") -> "CheckpointsWidget":
    """Bring the table of checkpoints to the front, docked below the slide when there is none."""
    from napari_2dmamba.plugin.checkpoints_widget import CheckpointsWidget

    for widget in viewer.window.dock_widgets.values():
        if isinstance(widget, CheckpointsWidget):
            raise_dock(widget)
            return widget
    widget = CheckpointsWidget(viewer)
    viewer.window.add_dock_widget(widget, name=CHECKPOINTS_WIDGET_NAME, area="bottom", tabify=True)
    return widget


def raise_dock(widget: "QWidget") -> None:
    """Show the dock that holds a widget, before others in the same tabs."""
    from qtpy.QtWidgets import QDockWidget

    dock = widget.parentWidget()
    while dock is not None and not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    if dock is not None:
        dock.show()
        dock.raise_()
