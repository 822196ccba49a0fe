"""The slide in small, with the part that the window shows."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.magnification import MagnificationBar
from napari_2dmamba.plugin.parts.pictures import as_qimage
from napari_2dmamba.plugin.session import Session

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import Slide

THUMBNAIL_SIDE = 512


class SlideOverview(DockedWidget):
    """The widget *Slide overview*: thumbnail with the view on it, and the magnification.

    A click or drag on the thumbnail moves the view.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self._viewer = self.session.viewer
        self._slide: Slide | None = None
        self.thumbnail = Thumbnail()
        self.magnification = MagnificationBar(self.session, self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)
        self.setMaximumHeight(310)
        layout.addWidget(self.thumbnail, 1)
        layout.addWidget(self.magnification)
        self._loading = LatestJob(self, delay_ms=0)
        self._loading.succeeded.connect(self.thumbnail.set_picture)
        self.thumbnail.pointed = self._move_to
        self.listen(self._viewer.scene.camera.events, self._draw_view)
        self.listen(self._viewer.canvas.events.size, self._draw_view)
        for signal in (self.session.events.current, self.session.events.mpp):
            self.listen(signal, self.refresh)
        self.refresh()

    def let_go(self) -> None:
        """Disconnect from the viewer and stop loading."""
        super().let_go()
        self._loading.cancel()

    def refresh(self) -> None:
        """Follow the slide that is looked at."""
        current = self.session.current
        slide = None if current is None else current.slide
        if slide is not self._slide:
            self._slide = slide
            self.thumbnail.words = "No slide open" if slide is None else "Reading the slide…"
            self.thumbnail.set_picture(None)
            self._loading.cancel()  # a picture that comes late would be of another slide
            if slide is not None:
                self._loading.request(lambda progress, stop: slide.thumbnail(THUMBNAIL_SIDE))
        self._draw_view()

    def _draw_view(self, event: object = None) -> None:
        self.magnification.refresh()
        if self._slide is None:
            self.thumbnail.set_view(None)
            return
        unit = self._slide.mpp or 1.0
        width, height = self._slide.dimensions
        camera = self._viewer.scene.camera
        center_y, center_x = (c / unit for c in camera.center[-2:])
        view_h, view_w = (side / camera.zoom / unit for side in self._viewer.canvas.size)
        self.thumbnail.set_view(
            QRectF(
                (center_x - view_w / 2) / width,
                (center_y - view_h / 2) / height,
                view_w / width,
                view_h / height,
            )
        )

    def _move_to(self, x: float, y: float) -> None:
        if self._slide is None:
            return
        unit = self._slide.mpp or 1.0
        width, height = self._slide.dimensions
        camera = self._viewer.scene.camera
        camera.center = (*camera.center[:-2], y * height * unit, x * width * unit)


class Thumbnail(QWidget):
    """A picture with a rectangle on it, both in fractions of the picture's sides."""

    def __init__(self) -> None:
        super().__init__()
        self._pixmap: QPixmap | None = None
        self.view: QRectF | None = None
        self.words = "No slide open"  # where there is no picture
        self.pointed = lambda x, y: None
        self.setMinimumSize(160, 120)
        self.setMaximumHeight(230)  # the layer list needs the rest
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setToolTip("Click or drag to move the view")
        self.setCursor(Qt.CursorShape.CrossCursor)

    def sizeHint(self) -> QSize:
        """Return a size that leaves room for the layer list."""
        return QSize(260, 200)

    def set_picture(self, picture: NDArray[np.uint8] | None) -> None:
        """Show an ``(h, w)`` or ``(h, w, 3)`` picture; None shows nothing."""
        self._pixmap = None if picture is None else QPixmap.fromImage(as_qimage(picture))
        self.update()

    def set_view(self, view: QRectF | None) -> None:
        """Draw the rectangle ``view``, in fractions of the picture."""
        self.view = view
        self.update()

    def picture_rect(self) -> QRectF:
        """Return where the picture lies in the widget, in pixels."""
        if self._pixmap is None:
            return QRectF()
        room = self.size() - QSize(4, 4)  # for the frame
        size = self._pixmap.size().scaled(room, Qt.AspectRatioMode.KeepAspectRatio)
        left, top = (self.width() - size.width()) / 2, (self.height() - size.height()) / 2
        return QRectF(left, top, size.width(), size.height())

    def paintEvent(self, event: Any) -> None:
        """Draw picture and rectangle."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        if self._pixmap is None:
            painter.setPen(self.palette().text().color())
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, self.words)
            return
        box = self.picture_rect()
        painter.drawPixmap(box, self._pixmap, QRectF(self._pixmap.rect()))
        painter.setPen(QPen(QColor(140, 140, 140), 1))
        painter.drawRect(box)
        if self.view is not None:
            shown = QRectF(
                box.x() + self.view.x() * box.width(),
                box.y() + self.view.y() * box.height(),
                self.view.width() * box.width(),
                self.view.height() * box.height(),
            ).intersected(box)
            if shown.width() < 6 or shown.height() < 6:  # stay visible at 40x
                shown = QRectF(shown.center() - QPointF(3, 3), shown.center() + QPointF(3, 3))
            painter.setPen(QPen(QColor(255, 255, 255), 4))
            painter.drawRect(shown)
            painter.setPen(QPen(QColor(0, 90, 200), 2))
            painter.drawRect(shown)

    def mousePressEvent(self, event: Any) -> None:
        """Move the view to the point."""
        self._point(event)

    def mouseMoveEvent(self, event: Any) -> None:
        """Move the view with the drag."""
        self._point(event)

    def _point(self, event: Any) -> None:
        box = self.picture_rect()
        if box.isEmpty():
            return
        x = (event.position().x() - box.x()) / box.width()
        y = (event.position().y() - box.y()) / box.height()
        self.pointed(min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0))
