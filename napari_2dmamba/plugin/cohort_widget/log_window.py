"""A slide's log in a window of its own."""

from pathlib import Path

from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import QDialog, QPlainTextEdit, QVBoxLayout, QWidget

_MOST_CHARACTERS = 200_000


def show_log(path: Path, title: str, parent: QWidget) -> QDialog:
    """Show the end of a log file; one that cannot be read says why instead."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[-_MOST_CHARACTERS:]
    except OSError as error:
        text = f"{path} cannot be read ({error.strerror}); the slide may not have been begun."
    window = QDialog(parent)
    window.setWindowTitle(f"Log of {title}")
    window.resize(900, 400)
    pane = QPlainTextEdit(text)
    pane.setReadOnly(True)
    pane.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
    pane.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
    layout = QVBoxLayout(window)
    layout.setContentsMargins(4, 4, 4, 4)
    layout.addWidget(pane)
    window.show()
    bar = pane.verticalScrollBar()
    if bar is not None:
        bar.setValue(bar.maximum())
    return window
