"""Widgets that need PyTorch: docked once it is loaded, so that the window is there sooner."""

from importlib import import_module
from typing import TYPE_CHECKING
from weakref import ref

from qtpy.QtCore import QObject, QTimer, Signal

from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.jobs import Job

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.plugin.session import Session
    from napari_2dmamba.settings import ProgressCallback, StopCallback

LATER = (docks.INSPECT, docks.REGIONS, docks.COMPARE)
"""In the order of their tabs."""

_FIRST_RUN = (
    "scipy.ndimage",
    "napari_2dmamba.pipeline",
    "matplotlib.backends.backend_qtagg",
)
"""What the first run would wait for otherwise."""


class LaterWidgets(QObject):
    """Loads in a thread, then docks the widgets one by one behind what is in front.

    Parameters
    ----------
    viewer, session
        The window, shown already.

    Signals
    -------
    loaded()
        PyTorch is there; the widgets are next.
    """

    loaded = Signal()

    def __init__(self, viewer: "Viewer", session: "Session") -> None:
        super().__init__(viewer.window._qt_window)
        self._viewer, self._session = ref(viewer), session
        self._left = list(LATER)
        self.job = Job(_load)
        self.job.succeeded.connect(self._dock_all)
        self.job.failed.connect(self._say)
        QTimer.singleShot(0, self.job.start)  # not before the window answers

    def _dock_all(self, _: object) -> None:
        self.loaded.emit()
        self._dock_next()

    def _dock_next(self) -> None:
        viewer = self._viewer()
        if viewer is None or not self._left:
            return
        dock_behind(viewer, self._left.pop(0))
        QTimer.singleShot(0, self._dock_next)  # the window answers between two of them

    def _say(self, sentence: str) -> None:
        self._session.events.said.emit(sentence, "error")


def _load(on_progress: "ProgressCallback", should_stop: "StopCallback") -> None:
    # PyTorch by itself: who closes the window meanwhile waits for one import only
    for name in ("torch", *(dock.module for dock in LATER), *_FIRST_RUN):
        if not should_stop():
            import_module(name)


def dock_behind(viewer: "Viewer", dock: docks.Dock) -> None:
    """Dock a widget where there is none, behind the one that is in front of its place."""
    if docks.docked(viewer, dock) is not None:
        return
    in_front = docks.seen(viewer, dock.area)
    docks.show(viewer, dock)
    for widget in in_front:
        docks.raise_dock(widget)
