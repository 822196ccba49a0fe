"""Patches that are inspected while the mouse passes over them, no faster than their maps come."""

from collections.abc import Callable

from qtpy.QtCore import QObject, QTimer, Signal

PATIENCE = 600
"""Milliseconds that maps of a patch are waited for while the mouse is elsewhere already."""
REST = 300
"""Milliseconds without another patch, after which the mouse rests."""


class FollowMouse(QObject):
    """Hands on the newest patch under the mouse when the maps of the one before are there.

    Maps that come within `PATIENCE` are all shown, so that they keep up with the mouse; slower
    ones are given up for the newest patch, and come when the mouse rests.

    Parameters
    ----------
    is_busy
        Says whether maps of the last patch are still to come.

    Signals
    -------
    patch(number)
        Inspect this one.
    rested()
        The mouse rests, and the maps of the patch under it are there.
    """

    patch = Signal(int)
    rested = Signal()

    def __init__(self, is_busy: Callable[[], bool], parent: QObject) -> None:
        super().__init__(parent)
        self._is_busy = is_busy
        self._waits: int | None = None
        self._last: int | None = None
        self._waiting = QTimer(self)
        self._waiting.setSingleShot(True)
        self._waiting.setInterval(PATIENCE)
        self._waiting.timeout.connect(self.go_on)
        self._resting = QTimer(self)
        self._resting.setSingleShot(True)
        self._resting.setInterval(REST)
        self._resting.timeout.connect(self._rest)

    @property
    def is_moving(self) -> bool:
        """Whether the mouse has not rested since the last patch."""
        return self._resting.isActive()

    def point(self, patch: int) -> None:
        """Take note of the patch under the mouse."""
        if patch == self._last:
            self._waits = None  # it is back where it was
            return
        self._waits = patch
        if not (self._is_busy() and self._waiting.isActive()):
            self.go_on()

    def go_on(self) -> None:
        """Hand on the patch that waits, if any."""
        if self._waits is None:
            return
        self._last, self._waits = self._waits, None
        self._waiting.start()
        self._resting.start()
        self.patch.emit(self._last)

    def _rest(self) -> None:
        if self._is_busy():
            self._resting.start()
        else:
            self.rested.emit()

    def forget(self) -> None:
        """Follow nothing that was pointed at before."""
        self._waiting.stop()
        if self._resting.isActive():
            self._resting.stop()
            self.rested.emit()
        self._waits = self._last = None
