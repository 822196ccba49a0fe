"""Menu commands."""

from typing import TYPE_CHECKING

from napari_2dmamba.plugin import docks

if TYPE_CHECKING:
    from napari.viewer import Viewer


def open_run(viewer: "Viewer") -> None:
    """Ask for the folder of a saved run and show it."""
    docks.show(viewer, docks.RUN).export_section.open.click()


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


def show_checkpoints(viewer: "Viewer") -> None:
    """Bring the table of checkpoints to the front, docked below the slide when there is none."""
    docks.show(viewer, docks.CHECKPOINTS)
