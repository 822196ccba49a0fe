"""A progress bar that leaves the processor to what it stands for."""

import time

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QProgressBar

_PERIOD = 0.2  # seconds
_ANIMATION = getattr(QEvent.Type, "StyleAnimationUpdate", 213)  # PyQt6 has no name for it


class ProgressBar(QProgressBar):
    """A progress bar that moves five times a second while it is not known how far it is.

    Qt would move it sixty times, and each time the whole window is put together anew, because
    there is a canvas of OpenGL in it. Without a graphics card, as on a remote desktop, that alone
    keeps a processor busy.
    """

    def __init__(self) -> None:
        super().__init__()
        self._moved = 0.0

    def event(self, event: QEvent | None) -> bool:
        """Let most steps of the animation pass without drawing."""
        if event is not None and event.type() == _ANIMATION:
            now = time.monotonic()
            if now - self._moved < _PERIOD:
                event.accept()  # or the animation ends
                return True
            self._moved = now
        return super().event(event)
