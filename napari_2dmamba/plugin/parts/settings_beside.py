"""Settings and what becomes of them: side by side in a wide dock, one below the other else."""

from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QSplitter, QVBoxLayout, QWidget

_WIDE = 950  # px; from here on the results stand beside the settings, not below them
_SETTINGS_WIDTH = 400


class SettingsBeside(QSplitter):
    """A column of sections, and results above a footer beside or below it.

    Parameters
    ----------
    sections
        The settings.
    results, footer
        What they lead to.
    """

    def __init__(self, sections: QWidget, results: QWidget, footer: QWidget) -> None:
        super().__init__(Qt.Orientation.Vertical)
        sections.setMinimumWidth(360)
        right = QWidget()
        column = QVBoxLayout(right)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(results, 1)
        column.addWidget(footer)
        self.addWidget(sections)
        self.addWidget(right)
        self.setStretchFactor(1, 1)
        self.setChildrenCollapsible(False)
        self.setMinimumWidth(380)

    def sizeHint(self) -> QSize:
        """Return a size at which sections and results are legible side by side."""
        return QSize(1100, 360)

    def resizeEvent(self, event: Any) -> None:
        """Turn where the room asks for it."""
        super().resizeEvent(event)
        wide = self.width() >= _WIDE
        wanted = Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical
        if self.orientation() != wanted:
            self.setOrientation(wanted)
            total = self.width() if wide else self.height()
            first = _SETTINGS_WIDTH if wide else total // 2
            self.setSizes([first, total - first])
