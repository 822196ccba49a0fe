"""The patches of highest and lowest score, as thumbnails that move the view."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.explain.display import format_value, top_patches
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.pictures import as_qimage, read_patches
from napari_2dmamba.plugin.session.shown_run import Patches
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

COLUMNS = 4
THUMBNAIL_SIDE = 78


class Gallery(QWidget):
    """Thumbnails of the top or bottom patches.

    Signals
    -------
    chosen(index)
        Index of the patch that was clicked.
    """

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slide: Slide | None = None
        self._patches: Patches | None = None
        self._indices: list[int] = []
        self.which = QComboBox()
        self.which.addItems(["Highest scores", "Lowest scores"])
        self.which.currentIndexChanged.connect(self._refresh)
        self.count = QSpinBox()
        self.count.setRange(COLUMNS, 64)
        self.count.setSingleStep(COLUMNS)
        self.count.setValue(2 * COLUMNS)
        self.count.setSuffix(" patches")
        self.count.setKeyboardTracking(False)
        self.count.valueChanged.connect(self._refresh)
        head = QHBoxLayout()
        head.addWidget(self.which, 1)
        head.addWidget(self.count)
        self._grid = QGridLayout()
        self._grid.setSpacing(4)
        self.hint = QLabel("Click a patch to see it on the slide.")
        self.hint.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addLayout(self._grid)
        layout.addWidget(self.hint)
        self.buttons: list[QToolButton] = []
        self._loading = LatestJob(self, delay_ms=50)
        self._loading.succeeded.connect(self._show_pictures)
        self._loading.failed.connect(self.hint.setText)

    def show_patches(self, slide: "Slide | None", patches: Patches | None) -> None:
        """Show patches of ``slide``; None clears."""
        before, self._slide, self._patches = (self._slide, self._patches), slide, patches
        if slide is not before[0] or not same_patches(patches, before[1]):
            self._refresh()

    def step(self, corner: tuple[int, int] | None, by: int) -> None:
        """Choose the patch ``by`` places after the one at ``corner``, and stay within the gallery.

        Where that one is not in the gallery, the first is chosen.
        """
        if self._patches is None or not self._indices:
            return
        corners = [(int(x), int(y)) for x, y in self._patches.coords[self._indices]]
        place = corners.index(corner) + by if corner in corners else 0
        self.chosen.emit(self._indices[min(max(place, 0), len(self._indices) - 1)])

    @property
    def is_loading(self) -> bool:
        """Whether thumbnails are still being read."""
        return self._loading.is_busy

    def cancel(self) -> None:
        """Stop reading thumbnails."""
        self._loading.cancel()

    def _refresh(self) -> None:
        for button in self.buttons:
            self._grid.removeWidget(button)
            button.hide()
            button.deleteLater()
        self.buttons, self._indices = [], []
        slide, patches = self._slide, self._patches
        self._loading.cancel()
        if patches is None or slide is None:
            return
        lowest = self.which.currentIndex() == 1
        indices = [int(i) for i in top_patches(patches.scores, self.count.value(), lowest=lowest)]
        self._indices = indices
        for place, index in enumerate(indices):
            button = self._button(index, place, patches)
            self.buttons.append(button)
            self._grid.addWidget(button, place // COLUMNS, place % COLUMNS)
        side = round(THUMBNAIL_SIDE * self.devicePixelRatioF())
        corners = [(int(patches.coords[i, 0]), int(patches.coords[i, 1])) for i in indices]

        def read(progress: ProgressCallback, stop: StopCallback) -> list[NDArray[np.uint8]]:
            return read_patches(slide, corners, patches.size, side, stop)

        self._loading.request(read)

    def _button(self, index: int, place: int, patches: Patches) -> QToolButton:
        x, y = (int(v) for v in patches.coords[index])
        score = format_value(float(patches.scores[index]))
        button = QToolButton()
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
        button.setIconSize(QSize(THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        button.setIcon(QIcon(_placeholder()))
        button.setText(score)
        button.setToolTip(
            f"Number {place + 1} of {len(patches.scores)}: {score}\nat x {x}, y {y} (level 0)"
        )
        button.setAccessibleName(f"Patch {place + 1}, score {score}")
        button.clicked.connect(lambda _=False, i=index: self.chosen.emit(i))
        return button

    def _show_pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        for button, picture in zip(self.buttons, pictures, strict=False):
            pixmap = QPixmap.fromImage(as_qimage(picture))
            pixmap = pixmap.scaled(
                THUMBNAIL_SIDE,
                THUMBNAIL_SIDE,
                Qt.AspectRatioMode.KeepAspectRatio,
                Qt.TransformationMode.SmoothTransformation,
            )
            button.setIcon(QIcon(pixmap))


def same_patches(first: Patches | None, second: Patches | None) -> bool:
    """Return whether patches and their scores are the same: pictures need not be read again."""
    if first is None or second is None:
        return first is second
    return (
        first.size == second.size
        and np.array_equal(first.coords, second.coords)
        and np.array_equal(first.scores, second.scores, equal_nan=True)
    )


def _placeholder() -> QPixmap:
    pixmap = QPixmap(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    pixmap.fill(QColor(200, 200, 200))
    return pixmap
