"""The section *What if*: take tissue away and see what the model says then."""

from html import escape

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton

from napari_2dmamba.explain.counterfactual import ACTIONS, Action, Canvas, Counterfactual
from napari_2dmamba.plugin.inspect_widget.charts import AnswerChart
from napari_2dmamba.plugin.parts.section import Section

INSPECTED = "The inspected patches"

_TITLES: dict[Action, str] = {
    "remove": "Remove",
    "keep": "Keep only these",
    "pad": "Replace by the pad token",
    "similar": "Replace by similar patches",
}

_CANVASES: dict[Canvas, str] = {
    "kept": "Stays: the removed become background",
    "own": "That of the patches left",
}


class WhatIfSection(Section):
    """Choose patches and an action; shows the answers before and after.

    Signals
    -------
    draw_wanted()
    edit_wanted(where, action)
        ``where`` is `INSPECTED` or the name of a shapes layer.
    canvas_wanted(canvas)
        What becomes of the canvas, where that makes two answers of one.
    undo_wanted(), reset_wanted(), search_wanted()
    """

    draw_wanted = Signal()
    edit_wanted = Signal(str, str)
    canvas_wanted = Signal(str)
    undo_wanted = Signal()
    reset_wanted = Signal()
    search_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("What if", is_open=False)
        self._steps, self._is_busy = 0, False
        self.where = QComboBox()
        self.where.addItem(INSPECTED)
        self.draw = QPushButton("Draw…")
        self.draw.setToolTip("Draw a region: click its corners, end with a double click")
        self.draw.clicked.connect(self.draw_wanted)
        self.action = QComboBox()
        for key, title in _TITLES.items():
            self.action.addItem(title, key)
        self.action.currentIndexChanged.connect(self._hint)
        self.hint = QLabel()
        self.hint.setWordWrap(True)
        self.action.setItemData(
            self.action.findData("pad"),
            "What the model puts into cells without tissue: a vector it learned",
            Qt.ItemDataRole.ToolTipRole,
        )
        self.canvas = QComboBox()
        for canvas, title in _CANVASES.items():
            self.canvas.addItem(title, canvas)
        self.canvas.setToolTip(
            "The canvas is the grid of cells that the model scans. Without an outer row or column "
            "of patches, a slide has a smaller one, and every other patch another place on it"
        )
        self.canvas.activated.connect(lambda: self.canvas_wanted.emit(self.canvas.currentData()))
        self.apply = QPushButton("Ask the model")
        self.apply.clicked.connect(
            lambda: self.edit_wanted.emit(self.where.currentText(), self.action.currentData())
        )
        self.undo = QPushButton("Undo")
        self.undo.clicked.connect(self.undo_wanted)
        self.reset = QPushButton("Undo all")
        self.reset.clicked.connect(self.reset_wanted)
        self.search = QPushButton("Find the fewest patches that decide")
        self.search.setToolTip(
            "Searches for a small set of patches whose removal changes the predicted class, or "
            "halves the answer of a survival model"
        )
        self.search.clicked.connect(self.search_wanted)
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.hide()
        self.about_canvas = QLabel()
        self.about_canvas.setWordWrap(True)
        self.about_canvas.hide()
        self.chart = AnswerChart()
        place = QHBoxLayout()
        place.addWidget(self.where, 1)
        place.addWidget(self.draw)
        self.rows = rows = QFormLayout()
        rows.addRow("Patches", place)
        rows.addRow("Do", self.action)
        rows.addRow("Canvas", self.canvas)
        rows.setRowVisible(self.canvas, False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.apply, 1)
        buttons.addWidget(self.undo)
        buttons.addWidget(self.reset)
        self.body.addLayout(rows)
        self.body.addWidget(self.hint)
        self.body.addLayout(buttons)
        for part in (self.words, self.about_canvas, self.chart, self.search):
            self.body.addWidget(part)
        self._hint()
        self.set_steps(0)

    def set_places(self, names: list[str]) -> None:
        """Offer regions by name, besides the inspected patches."""
        current = self.where.currentText()
        self.where.clear()
        self.where.addItems([INSPECTED, *names])
        self.where.setCurrentText(current if current in names else INSPECTED)

    def show_canvas(self, canvas: Canvas) -> None:
        """Say what becomes of the canvas, without asking the model."""
        self.canvas.setCurrentIndex(self.canvas.findData(canvas))

    def set_steps(self, steps: int) -> None:
        """Offer to undo where there is something to undo."""
        self._steps = steps
        self._allow()

    def set_busy(self, is_busy: bool) -> None:
        """Grey the questions while the model is asked something."""
        self._is_busy = is_busy
        self._allow()

    def _allow(self) -> None:
        for button in (self.apply, self.search, self.canvas):
            button.setEnabled(not self._is_busy)
        for button in (self.undo, self.reset):
            button.setEnabled(self._steps > 0 and not self._is_busy)

    def show_change(self, found: Counterfactual, steps: int) -> None:
        """Show the answers before and after."""
        self.words.setText(change_words(found))
        self.words.show()
        self.about_canvas.setText(f"<i>{found.about_canvas}</i>")
        self.about_canvas.setVisible(found.canvases_differ)
        self.rows.setRowVisible(self.canvas, found.canvases_differ)
        self.chart.show_change(found)
        self.set_steps(steps)
        self.set_summary("" if not steps else f"{int(found.present.sum())} patches left")

    def say(self, words: str) -> None:
        """Show a sentence above the chart."""
        self.words.setText(words)
        self.words.show()
        self.about_canvas.hide()

    def clear(self) -> None:
        """Show that nothing was asked yet."""
        self.words.hide()
        self.about_canvas.hide()
        self.rows.setRowVisible(self.canvas, False)
        self.canvas.setCurrentIndex(0)
        self.chart.hide()
        self.set_steps(0)
        self.set_summary("")

    def _hint(self) -> None:
        words = ACTIONS[self.action.currentData()]
        self.hint.setText(f"<i>{words[:1].upper()}{words[1:]}.</i>")


def change_words(found: Counterfactual) -> str:
    """Say in a sentence of rich text what changed."""
    gone = len(found.present) - int(found.present.sum())
    without = f"With {gone} of {len(found.present)} patches gone" if gone else "With all patches"
    before, after = found.before, found.after
    if before.probabilities is None or after.probabilities is None:
        assert before.risk is not None
        assert after.risk is not None
        return f"{without}, the risk is {_instead(before.risk, after.risk)}."
    top = before.top_class
    old, new = before.probabilities[top], after.probabilities[top]
    name = escape(before.class_names[top])
    words = f"{without}, the probability of {name} is {_instead(float(old), float(new))}."
    if found.flipped:
        becomes = escape(after.class_names[after.top_class])
        words += f" The prediction becomes <b>{becomes}</b>."
    return words


def _instead(old: float, new: float) -> str:
    """Write two numbers with just enough digits (3 to 6) to tell them apart."""
    digits = next((d for d in (3, 4, 5) if f"{old:.{d}f}" != f"{new:.{d}f}"), 6)
    if old == new:
        return f"<b>{new:.3f}</b>, as before"
    change = f"{new - old:+.{digits}f}"
    return f"<b>{new:.{digits}f}</b> instead of {old:.{digits}f} ({change})"
