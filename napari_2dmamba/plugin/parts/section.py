"""Parts of a widget that fold away."""

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)


class Fold(QWidget):
    """A small heading that shows or hides what is below it."""

    def __init__(self, title: str, content: QWidget, *, is_open: bool = False) -> None:
        super().__init__()
        self.content = content
        self._button = QToolButton()
        self._button.setText(title)
        self._button.setCheckable(True)
        self._button.setAutoRaise(True)
        self._button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._button.toggled.connect(self._show)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self._button)
        layout.addWidget(content)
        self._button.setChecked(is_open)
        self._show(is_open)

    def set_open(self, is_open: bool) -> None:
        """Show or hide the content."""
        self._button.setChecked(is_open)

    def _show(self, is_open: bool) -> None:
        self._button.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.content.setVisible(is_open)


_LOOK = """
QFrame#section { border: 1px solid rgba(127, 127, 127, 90); border-radius: 5px; }
"""


class Section(QFrame):
    """One step of the widget: a bold heading with a summary beside it, and a body.

    The summary stays readable when the section is folded, so that a folded widget still
    tells its state.
    """

    toggled = Signal(bool)

    def __init__(self, title: str, *, is_open: bool = True) -> None:
        super().__init__()
        self.setObjectName("section")
        self.setStyleSheet(_LOOK)
        self._arrow = QToolButton()
        self._arrow.setAutoRaise(True)
        self._arrow.setCheckable(True)
        self._arrow.setAccessibleName(title)
        self._title = QLabel(f"<b>{title}</b>")
        self._summary = ElidedLabel()
        self._summary.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        header = _Header()
        header.clicked.connect(self._arrow.toggle)
        row = QHBoxLayout(header)
        row.setContentsMargins(2, 2, 6, 2)
        row.setSpacing(4)
        row.addWidget(self._arrow)
        row.addWidget(self._title)
        row.addWidget(self._summary, 1)
        self._body = QWidget()
        self.body = QVBoxLayout(self._body)
        self.body.setContentsMargins(10, 2, 6, 8)
        self.body.setSpacing(6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(header)
        layout.addWidget(self._body)
        self._arrow.toggled.connect(self._show)
        self._arrow.setChecked(is_open)
        self._show(is_open)

    @property
    def is_open(self) -> bool:
        """Whether the body shows."""
        return self._arrow.isChecked()

    def set_open(self, is_open: bool) -> None:
        """Show or hide the body."""
        self._arrow.setChecked(is_open)

    def set_summary(self, text: str) -> None:
        """Say in a few words what the section holds."""
        self._summary.set_text(text)

    def _show(self, is_open: bool) -> None:
        self._arrow.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self._body.setVisible(is_open)
        self.toggled.emit(is_open)


def scrolling_column(*sections: Section) -> QScrollArea:
    """Return sections one below the other, which scroll where the screen is too low."""
    column = QWidget()
    layout = QVBoxLayout(column)
    layout.setContentsMargins(4, 4, 4, 4)
    layout.setSpacing(4)
    for section in sections:
        layout.addWidget(section)
    layout.addStretch(1)
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(column)
    return area


class ElidedLabel(QLabel):
    """A one-line label that ends in … where it is too narrow, never widening its parent."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._full = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.set_text(text)

    @property
    def full_text(self) -> str:
        """The text before it was shortened."""
        return self._full

    def set_text(self, text: str) -> None:
        """Show ``text``, with all of it in the tooltip."""
        self._full = text
        self.setToolTip(text)
        self._shorten()

    def resizeEvent(self, event: Any) -> None:
        """Shorten for the new width."""
        super().resizeEvent(event)
        self._shorten()

    def _shorten(self) -> None:
        width = max(0, self.width() - 6)
        self.setText(self.fontMetrics().elidedText(self._full, Qt.TextElideMode.ElideMiddle, width))


class _Header(QWidget):
    clicked = Signal()

    def mouseReleaseEvent(self, event: object) -> None:
        self.clicked.emit()
