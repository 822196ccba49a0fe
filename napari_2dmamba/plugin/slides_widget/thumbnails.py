"""Thumbnails of slides, read one after another off the thread of the window."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap

from napari_2dmamba.errors import UserError
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.pictures import as_qimage
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

SIDE = 56

Wanted = dict[Path, "Slide | None"]
_State = tuple[int, int] | None


class Thumbnails(QObject):
    """Icons of slides by their files as they are now.

    A slide that is not open is opened for its picture and closed.

    Signals
    -------
    loaded()
        There is one more.
    """

    loaded = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._icons: dict[Path, tuple[_State, QIcon]] = {}
        self._wanted: Wanted = {}
        self._nothing = QIcon(_on_square(None))
        self._loading = LatestJob(self, delay_ms=0)
        self._loading.succeeded.connect(self._take)
        self._loading.finished.connect(self._go_on)

    def icon(self, path: Path) -> QIcon:
        """Return the picture of a slide, or an empty square while there is none."""
        return self._icons[path][1] if path in self._icons else self._nothing

    def want(self, wanted: Wanted) -> None:
        """Read pictures that are not there yet; what was wanted before is forgotten."""
        self._wanted = {
            path: one
            for path, one in wanted.items()
            if path not in self._icons or self._icons[path][0] != _state_of(path)
        }
        if not self._loading.is_busy:
            self._go_on()

    def cancel(self) -> None:
        """Read no more."""
        self._wanted = {}
        self._loading.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether pictures are still being read."""
        return bool(self._wanted) or self._loading.is_busy

    def _go_on(self) -> None:
        if not self._wanted:
            return
        path = next(iter(self._wanted))
        slide = self._wanted.pop(path)

        def task(
            progress: ProgressCallback, stop: StopCallback
        ) -> tuple[Path, _State, NDArray[np.uint8] | None]:
            return path, _state_of(path), _picture_of(path, slide)

        self._loading.request(task)

    def _take(self, found: tuple[Path, _State, NDArray[np.uint8] | None]) -> None:
        path, state, picture = found
        pixmap = _on_square(picture)
        icon = QIcon(pixmap)
        icon.addPixmap(pixmap, QIcon.Mode.Selected)  # no tint over the colours of the slide
        self._icons[path] = state, icon
        self.loaded.emit()


def _state_of(path: Path) -> _State:
    """Return what changes when another slide takes the place of a file; None without a file."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size


def _picture_of(path: Path, slide: "Slide | None") -> NDArray[np.uint8] | None:
    """Return a thumbnail; None where there is none, which opening the slide will explain."""
    from napari_2dmamba.slide import open_slide

    try:
        if slide is not None:
            return slide.thumbnail(2 * SIDE)
        with open_slide(path) as opened:
            return opened.thumbnail(2 * SIDE)
    except UserError:
        return None


def _on_square(picture: NDArray[np.uint8] | None) -> QPixmap:
    """Return a picture in the middle of a square, so that names stand in one line."""
    square = QPixmap(SIDE, SIDE)
    square.fill(QColor(0, 0, 0, 0))
    painter = QPainter(square)
    if picture is None:
        painter.fillRect(4, 4, SIDE - 8, SIDE - 8, QColor(128, 128, 128, 60))
    else:
        small = QPixmap.fromImage(as_qimage(picture)).scaled(
            SIDE, SIDE, Qt.AspectRatioMode.KeepAspectRatio,
            Qt.TransformationMode.SmoothTransformation,
        )  # fmt: skip
        painter.drawPixmap((SIDE - small.width()) // 2, (SIDE - small.height()) // 2, small)
    painter.end()
    return square
