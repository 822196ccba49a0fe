"""A small picture per state: each has its own shape, so that colour is not needed to tell."""

from functools import cache

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF

from napari_2dmamba.cohort import status as states

PAUSED = "paused"
_SIDE = 32
_COLOURS = {
    states.WAITING: "#8a8f98",
    states.RUNNING: "#2f6fb7",
    PAUSED: "#9a6a00",
    states.DONE: "#2c8a43",
    states.REUSED: "#2c8a43",
    states.FAILED: "#c0392b",
    states.STOPPED: "#9a6a00",
    states.ELSEWHERE: "#6d4bb3",
}


@cache
def state_icon(state: str) -> QIcon:
    """Return the icon of a state of `cohort.status.STATES`, or of `PAUSED`."""
    pixmap = QPixmap(_SIDE, _SIDE)
    pixmap.fill(QColor(0, 0, 0, 0))
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    colour = QColor(_COLOURS[state])
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    painter.drawEllipse(QRectF(1, 1, 30, 30))
    painter.setBrush(QColor("white"))
    pen = QPen(QColor("white"), 4)
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    if state == states.RUNNING:
        painter.drawPolygon(_polygon((12, 9), (24, 16), (12, 23)))
    elif state == PAUSED:
        painter.drawRect(QRectF(10, 9, 4, 14))
        painter.drawRect(QRectF(18, 9, 4, 14))
    elif state == states.STOPPED:
        painter.drawRect(QRectF(10, 10, 12, 12))
    else:
        painter.setPen(pen)
        for line in _LINES[state]:
            painter.drawPolyline(_polygon(*line))
    painter.end()
    return QIcon(pixmap)


_TICK = ((9, 17), (14, 22), (23, 11))
_LINES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    states.WAITING: (((16, 9), (16, 16), (21, 19)),),  # a clock
    states.DONE: (_TICK,),
    states.REUSED: (((6, 17), (11, 22), (18, 11)), ((15, 21), (16, 22), (25, 11))),
    states.FAILED: (((11, 11), (21, 21)), ((21, 11), (11, 21))),
    states.ELSEWHERE: (((9, 13), (23, 13), (19, 9)), ((23, 20), (9, 20), (13, 24))),
}


def _polygon(*points: tuple[float, float]) -> QPolygonF:
    return QPolygonF([QPointF(x, y) for x, y in points])
