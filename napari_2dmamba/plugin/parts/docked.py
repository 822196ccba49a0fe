"""What every docked widget of ours has to do about the viewer it listens to."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, Signal
from qtpy.QtWidgets import QWidget


class DockedWidget(QWidget):
    """A widget that lets go of the viewer when its dock is closed.

    napari takes the parent away from the inner widget of a closed dock and forgets it; events
    that are still connected would then call into a deleted widget.
    """

    undocked = Signal()
    """The dock was closed."""

    def __init__(self) -> None:
        super().__init__()
        self._was_docked = False
        self._connected: list[tuple[Any, Callable[..., Any]]] = []

    def listen(self, emitter: Any, method: Callable[..., Any]) -> None:
        """Connect a method of this widget to an event of the viewer until the dock closes."""
        emitter.connect(method)
        self._connected.append((emitter, method))

    def let_go(self) -> None:
        """Disconnect from the viewer; subclasses also stop what runs."""
        while self._connected:
            emitter, method = self._connected.pop()
            emitter.disconnect(method)

    def event(self, event: Any) -> bool:
        """Notice when the dock has closed."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._was_docked = True
            elif self._was_docked:
                self._was_docked = False
                self.let_go()
                self.undocked.emit()
        return bool(super().event(event))
