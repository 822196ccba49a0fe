"""Clicks and keys on the canvas that choose patches."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_2dmamba.plugin.layers.weak_callback import weak_callback

if TYPE_CHECKING:
    from napari.viewer import Viewer

ARROWS = {"Left": (0, -1), "Right": (0, 1), "Up": (-1, 0), "Down": (1, 0)}
_CLICK_PIXELS = 4  # a press that moves further is a drag


class Pointing(QObject):
    """Takes the viewer's clicks, arrow keys and Escape while it is on.

    Clicks while the user draws in a layer are left alone, and so are drags.

    Signals
    -------
    clicked(position, add)
        World position ``(..., y, x)``; ``add`` with Shift.
    moved(position)
        The mouse is elsewhere, with no button pressed; the same position.
    stepped(rows, cols)
    ended()
        Escape.
    """

    clicked = Signal(object, bool)
    moved = Signal(object)
    stepped = Signal(int, int)
    ended = Signal()

    def __init__(self, viewer: "Viewer", parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._press = weak_callback(self._on_press)
        self._move = weak_callback(self._on_move)
        self._keys: dict[str, Any] | None = None  # what they did before, while we have them

    def start(self) -> None:
        """Take clicks and keys."""
        self._viewer.mouse_drag_callbacks.append(self._press)
        self._viewer.mouse_move_callbacks.append(self._move)
        actions = {name: self._steps(*way) for name, way in ARROWS.items()}
        actions["Escape"] = weak_callback(self._end)
        self._keys = {
            key: self._viewer.bind_key(key, action, overwrite=True)
            for key, action in actions.items()
        }

    def stop(self) -> None:
        """Give clicks and keys back; without `start` nothing happens."""
        if self._press in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._press)
            self._viewer.mouse_move_callbacks.remove(self._move)
        for key, before in (self._keys or {}).items():
            self._viewer.bind_key(key, before, overwrite=True)
        self._keys = None

    def _steps(self, rows: int, cols: int) -> Callable[[Any], None]:
        step = weak_callback(self._step)

        def press(viewer: Any) -> None:  # napari asks for a name, which a partial has not
            step(rows, cols)

        return press

    def _step(self, rows: int, cols: int) -> None:
        self.stepped.emit(rows, cols)

    def _on_move(self, viewer: "Viewer", event: Any) -> None:
        self.moved.emit(event.position)

    def _end(self, viewer: Any) -> None:
        self.ended.emit()

    def _on_press(self, viewer: "Viewer", event: Any) -> Iterator[None]:
        active = viewer.layers.selection.active
        if event.button != 1:
            return
        if active is not None and str(active.mode) not in ("pan_zoom", "transform"):
            return  # the user draws
        start = np.array(event.pos, dtype=float)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.array(event.pos) - start).max() <= _CLICK_PIXELS:
            self.clicked.emit(event.position, "Shift" in event.modifiers)
