"""Two cameras that move as one."""

from typing import Any


class CameraLink:
    """Copies centre and zoom of either camera to the other while it is on.

    Parameters
    ----------
    first, second
        napari cameras (``viewer.scene.camera``) of the same world.
    """

    def __init__(self, first: Any, second: Any) -> None:
        self._cameras = first, second
        self._is_on = self._is_copying = False

    def set_on(self, is_on: bool) -> None:
        """Link, the second camera going to the first, or let go."""
        if is_on == self._is_on:
            return
        self._is_on = is_on
        first, second = self._cameras
        for camera, follow in ((first, self._follow_first), (second, self._follow_second)):
            for event in (camera.events.center, camera.events.zoom):
                if is_on:
                    event.connect(follow)
                else:
                    event.disconnect(follow)
        if is_on:
            self._follow_first()

    def _follow_first(self, event: Any = None) -> None:
        self._copy(*self._cameras)

    def _follow_second(self, event: Any = None) -> None:
        self._copy(*reversed(self._cameras))

    def _copy(self, source: Any, target: Any) -> None:
        if self._is_copying:
            return
        self._is_copying = True
        try:
            target.center, target.zoom = source.center, source.zoom
        finally:
            self._is_copying = False
