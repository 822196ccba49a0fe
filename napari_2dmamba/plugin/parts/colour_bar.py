"""The colours of a map with the values they stand for."""

from typing import Any

from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_2dmamba.explain.display import DisplaySettings, DisplayTransform, Tick, bar_colours
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.parts.pictures import as_qimage

_BAR_HEIGHT = 14


class ColourBar(QWidget):
    """A horizontal bar whose ticks are raw values, whatever the display transform."""

    def __init__(self) -> None:
        super().__init__()
        self._image: QImage | None = None
        self.ticks: list[Tick] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """Return room for the bar and one line of text."""
        return QSize(200, _BAR_HEIGHT + self.fontMetrics().height() + 8)

    def show_map(self, grid_map: GridMap | None, display: DisplaySettings) -> None:
        """Show the colours of ``grid_map``; None clears."""
        if grid_map is None:
            self._image, self.ticks = None, []
        else:
            self._image = as_qimage(bar_colours(grid_map, display)[None])
            self.ticks = DisplayTransform(grid_map, display).ticks(4)
        self.update()

    def paintEvent(self, event: Any) -> None:
        """Draw bar, ticks and values."""
        if self._image is None:
            return
        painter = QPainter(self)
        bar = QRectF(0.5, 1.5, self.width() - 1, _BAR_HEIGHT)
        painter.drawImage(bar, self._image)
        painter.setPen(QColor(120, 120, 120))
        painter.drawRect(bar)
        painter.setPen(self.palette().windowText().color())
        for tick in self.ticks:
            x = bar.left() + tick.position * bar.width()
            painter.drawLine(round(x), round(bar.bottom()), round(x), round(bar.bottom()) + 3)
            width = self.fontMetrics().horizontalAdvance(tick.label) + 2
            left = min(max(0.0, x - width / 2), self.width() - width)
            place = QRectF(left, bar.bottom() + 3, width, self.fontMetrics().height())
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, tick.label)
