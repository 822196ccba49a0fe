"""One sentence to the user, in the widget."""

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

_LOOKS = {
    "info": "background: #e6eef8; color: #12385f; border: 1px solid #b9cfe8;",
    "good": "background: #e4f2e6; color: #14492a; border: 1px solid #b5d8bc;",
    "warning": "background: #fdf1d8; color: #5c4200; border: 1px solid #ecd08f;",
    "error": "background: #fbe3e1; color: #74170f; border: 1px solid #eeb2ac;",
}


class Message(QLabel):
    """A coloured box with a sentence; invisible while there is nothing to say."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.hide()

    def say(self, sentence: str, kind: str = "info") -> None:
        """Show a sentence as ``"info"``, ``"good"``, ``"warning"`` or ``"error"``."""
        self.kind = kind
        self.setText(_with_stop(sentence))
        self.setStyleSheet(f"QLabel {{ {_LOOKS[kind]} border-radius: 4px; padding: 5px; }}")
        self.show()

    def clear(self) -> None:
        """Say nothing."""
        self.kind = ""
        super().clear()
        self.hide()


def as_lines(sentences: Sequence[str]) -> str:
    """Return several sentences for one box, one on each line."""
    return "\n".join(_with_stop(sentence) for sentence in sentences)


def _with_stop(sentence: str) -> str:
    if sentence.split(" ", 1)[0].isalpha():  # but a file keeps its name
        sentence = sentence[:1].upper() + sentence[1:]
    return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."
