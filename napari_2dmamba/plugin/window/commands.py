"""Menu commands."""

from typing import TYPE_CHECKING

from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.session import Session

if TYPE_CHECKING:
    from napari.viewer import Viewer


def open_run(viewer: "Viewer") -> None:
    """Ask for the folder of a saved run and show it."""
    docks.show(viewer, docks.RUN).export_section.open.click()


def open_address(viewer: "Viewer") -> None:
    """Ask for the address of a slide on the network and open it."""
    from qtpy.QtWidgets import QInputDialog, QLineEdit

    from napari_2dmamba.plugin.parts import dropped

    address, wanted = QInputDialog.getText(
        viewer.window._qt_window,
        "Open an address",
        "A slide on a server (https://…) or in a bucket (s3://…).\n"
        "SVS, TIFF, OME-TIFF and OME-Zarr are read in parts:",
        QLineEdit.EchoMode.Normal,
    )
    if wanted and address.strip():
        dropped.take(Session.of(viewer), [address.strip()])


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


def run_slide(viewer: "Viewer") -> None:
    """Run the chosen model on the slide that is looked at."""
    docks.show(viewer, docks.RUN).start_run()


def inspect(viewer: "Viewer") -> None:
    """Begin or end to inspect patches."""
    docks.show(viewer, docks.INSPECT).mode.toggle()


def toggle_map(viewer: "Viewer") -> None:
    """Show or hide the map of the run on display."""
    session = Session.of(viewer)
    layer = docks.show(viewer, docks.RUN).map_layer
    if layer is None:
        _say_there_is_no_run(session)
    else:
        session.set_visible(layer, not layer.visible)


def next_patch(viewer: "Viewer") -> None:
    """Go to the next patch of the gallery."""
    _step_patch(viewer, 1)


def previous_patch(viewer: "Viewer") -> None:
    """Go to the patch of the gallery before."""
    _step_patch(viewer, -1)


def next_slide(viewer: "Viewer") -> None:
    """Look at the next open slide."""
    _step_slide(viewer, 1)


def previous_slide(viewer: "Viewer") -> None:
    """Look at the open slide before."""
    _step_slide(viewer, -1)


def _step_patch(viewer: "Viewer", by: int) -> None:
    session = Session.of(viewer)
    slide = session.current
    if slide is None or slide.run is None:
        _say_there_is_no_run(session)
        return
    docks.show(viewer, docks.RUN).result_section.gallery.step(slide.patch, by)


def _step_slide(viewer: "Viewer", by: int) -> None:
    session = Session.of(viewer)
    if session.current is None:
        return
    place = session.slides.index(session.current) + by
    if 0 <= place < len(session.slides):
        session.show(session.slides[place])


def _say_there_is_no_run(session: Session) -> None:
    docks.show(session.viewer, docks.RUN)  # where it is said
    session.events.said.emit("There is no run on display; run the model first", "info")
