"""Everything one checkpoint says of itself, and the user's note on it."""

import html
import json
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QFrame,
    QLabel,
    QPlainTextEdit,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.checkpoints.columns import Row, day, file_size, outputs_text, score_text
from napari_2dmamba.checkpoints.fit import State
from napari_2dmamba.checkpoints.summary import CheckpointSummary
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Fold

_KINDS = {
    State.FITS: "good",
    State.UNSURE: "warning",
    State.EXTRACT: "info",
    State.NO: "error",
    State.UNUSABLE: "error",
}
_EDGE = "QPlainTextEdit { border: 1px solid rgba(127, 127, 127, 140); border-radius: 3px; }"
_PAUSE = 800  # ms without typing after which a note is kept


class Details(QScrollArea):
    """The panel beside the table.

    Signals
    -------
    note_written(location, note)
    """

    note_written = Signal(str, str)

    def __init__(self) -> None:
        super().__init__()
        self._row: Row | None = None
        self.heading = _label()
        self.place = _label()
        self.fit = Message()
        self.purpose = Message()
        self.facts = _label()
        self.training = _label()
        self.header = QPlainTextEdit()
        self.header.setReadOnly(True)
        self.header.setMinimumHeight(180)
        self.header.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.note = QPlainTextEdit()
        self.note.setPlaceholderText("Your note on this checkpoint")
        self.note.setAccessibleName("Note")
        self.note.setTabChangesFocus(True)
        self.note.setFixedHeight(64)
        for editor in (self.note, self.header):  # napari's themes draw them without an edge
            editor.setStyleSheet(_EDGE)
        self._note_title = QLabel("<b>Note</b>")
        self._training_title = QLabel("<b>Training</b>")
        self._header_fold = Fold("Configuration and header", self.header)
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.setContentsMargins(8, 2, 6, 6)
        layout.setSpacing(5)
        for widget in (
            self.heading, self.place, self.fit, self.purpose, self.facts, self._note_title,
            self.note, self._training_title, self.training, self._header_fold,
        ):  # fmt: skip
            layout.addWidget(widget)
        layout.addStretch(1)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(_PAUSE)
        self._pause.timeout.connect(self.keep_note)
        self.note.textChanged.connect(self._pause.start)
        self.show_rows([])

    def show_rows(self, rows: list[Row]) -> None:
        """Show one checkpoint, or how many are selected."""
        row = rows[0] if len(rows) == 1 else None
        same = row is not None and self._row is not None and _place(row) == _place(self._row)
        if not same:
            self.keep_note()
        self._row = row
        for widget in (self.place, self.facts, self._note_title, self.note, self._training_title,
                       self.training, self._header_fold):  # fmt: skip
            widget.setVisible(row is not None)
        self.fit.clear()
        self.purpose.clear()
        if row is None:
            self.heading.setText(
                f"{len(rows)} checkpoints are selected." if rows else
                "Select a checkpoint to see what it says of itself."
            )  # fmt: skip
            return
        summary = row.summary
        self.heading.setText(f"<b>{html.escape(summary.name)}</b>")
        self.place.setText(html.escape(from_home(summary.location)).replace("/", "/\u200b"))
        if row.fit is not None:
            self.fit.say(row.fit.sentence, _KINDS[row.fit.state])
        if summary.intended_use:
            self.purpose.say(summary.intended_use, "warning")
        self.facts.setText(_facts(summary))
        lines = _lines(summary.training)
        self.training.setText(_table(lines))
        for widget in (self._training_title, self.training):
            widget.setVisible(bool(lines))
        self._header_fold.setVisible(bool(summary.architecture))
        self.header.setPlainText(header_text(summary))
        if not same:
            self.note.blockSignals(True)
            self.note.setPlainText(row.note)
            self.note.blockSignals(False)

    def hideEvent(self, event: Any) -> None:
        """Keep the note when the panel goes, as when the window is closed."""
        self.keep_note()
        super().hideEvent(event)

    def keep_note(self) -> None:
        """Keep what was typed, without waiting for a pause."""
        self._pause.stop()
        if self._row is not None:
            written = self.note.toPlainText().strip()
            if written != self._row.note:
                self._row = Row(self._row.summary, self._row.fit, written)
                self.note_written.emit(self._row.summary.location, written)


def header_text(summary: CheckpointSummary) -> str:
    """Return what a file states, as indented JSON."""
    left_out = {"location", "size", "title", "problem", "missing", "stated", "n_outputs"}
    values = {
        key: value
        for key, value in summary.to_dict().items()
        if key not in left_out and value not in (None, "", (), {})
    }
    return json.dumps(values, indent=1, ensure_ascii=False)


def from_home(location: str) -> str:
    """Return a path as people write it, with ``~`` for their own folder."""
    path = Path(location)
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return location


def _facts(summary: CheckpointSummary) -> str:
    if not summary.architecture:
        return _table([("File", f"{file_size(summary.size)}, {day(summary.created)}")])
    patches = [f"{summary.patch_size} px"] if summary.patch_size else []
    patches += [f"{summary.mpp:g} µm/px"] if summary.mpp else []
    survival = summary.task == "survival"
    told = "" if summary.stated else " (told from its weights)"
    lines = [
        ("Model", f"{summary.title or summary.architecture}{told}"),
        ("Task", summary.task or "not stated"),
        ("Time bins" if survival else "Classes", outputs_text(summary)),
        ("Encoder", summary.encoder or "not stated"),
        ("Features", f"{summary.feature_size} per patch"),
        ("Patches", " at ".join(patches) or "not stated"),
        ("Validation", score_text(summary) or "not stated"),
        ("Made on" if summary.stated else "Changed on", day(summary.created)),
        ("File", file_size(summary.size)),
        ("Its notes", summary.notes),
        ("To be given", ", ".join(summary.missing).replace("_", " ")),
    ]
    return _table([(name, value) for name, value in lines if value])


def _table(lines: list[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><td style='padding-right: 10px'>{html.escape(name)}</td>"
        f"<td><b>{html.escape(value)}</b></td></tr>"
        for name, value in lines
    )
    return f"<table cellspacing='2'>{cells}</table>" if cells else ""


def _lines(training: Any, before: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Return nested settings and scores as one line each."""
    lines: list[tuple[str, str]] = []
    for key, value in training.items():
        name = f"{before}{str(key).replace('_', ' ')}"
        if isinstance(value, dict) and depth < 4:
            lines += _lines(value, f"{name} › ", depth + 1)
        elif value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            lines.append((name, shown if len(shown) <= 200 else f"{shown[:200]}…"))
    return lines


def _place(row: Row) -> str:
    return row.summary.location


def _label() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.RichText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
