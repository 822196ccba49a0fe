"""What the models of a comparison say, what they cost, and how far they agree."""

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtGui import QBrush, QColor
from qtpy.QtWidgets import QComboBox, QHeaderView, QLabel

from napari_2dmamba.plugin.compare_widget.panel import answer
from napari_2dmamba.plugin.compare_widget.values_table import fill, plain_table
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Section

if TYPE_CHECKING:
    from napari_2dmamba.compare import Comparison

_STRONG = 47, 111, 183  # the blue of the charts
_MEASURES: tuple[tuple[str, float | None], ...] = (
    ("Rank correlation of the patches", None),
    ("Same patches in the top 1 %", 0.01),
    ("Same patches in the top 5 %", 0.05),
    ("Same patches in the top 10 %", 0.1),
)


class PredictionsSection(Section):
    """One row per model: answer, time and memory."""

    def __init__(self) -> None:
        super().__init__("Predictions", is_open=False)
        self.warning = Message()
        self.table = plain_table(("Model", "Answer", "", "Time", "Memory"))
        self.table.setWordWrap(False)
        header = self.table.horizontalHeader()
        assert header is not None
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.note = QLabel()
        self.note.setWordWrap(True)
        for widget in (self.warning, self.table, self.note):
            self.body.addWidget(widget)

    def show_comparison(self, comparison: "Comparison") -> None:
        """Show the models of a comparison."""
        runs = comparison.runs
        fill(
            self.table,
            [
                [run.label, *answer(run.prediction), in_seconds(run.seconds), in_mb(run.peak_bytes)]
                for run in runs
            ],
        )
        uses = list(dict.fromkeys(run.header.intended_use for run in runs))
        if any(uses):
            self.warning.say(" ".join(use for use in uses if use), "warning")
        else:
            self.warning.clear()
        places = ", ".join(dict.fromkeys(f"{run.device} ({run.device_reason})" for run in runs))
        notes = [f"Ran on {places}.", f"Memory: {comparison.memory_meaning}."]
        self.note.setText("<br>".join([*notes, *comparison.unchecked]))
        self.set_summary(f"{len(runs)} models")


class AgreementSection(Section):
    """How far each pair of maps agrees, as a table of all pairs."""

    def __init__(self) -> None:
        super().__init__("Agreement", is_open=False)
        self._comparison: Comparison | None = None
        self.measure = QComboBox()
        for title, fraction in _MEASURES:
            self.measure.addItem(title, fraction)
        self.measure.currentIndexChanged.connect(self._fill)
        self.table = plain_table(("Map",))
        self.note = QLabel()
        self.note.setWordWrap(True)
        for widget in (self.measure, self.table, self.note):
            self.body.addWidget(widget)

    def show_comparison(self, comparison: "Comparison") -> None:
        """Show the maps of a comparison."""
        self._comparison = comparison
        self._fill()

    def _fill(self) -> None:
        comparison = self._comparison
        if comparison is None:
            return
        fraction = self.measure.currentData()
        if fraction is None:
            values = comparison.rank_correlation()
            texts = [[f"{round(value, 2) + 0.0:.2f}" for value in row] for row in values]  # no -0
            self.note.setText("Spearman: 1 is the same order of the patches, 0 is unrelated.")
        else:
            values = comparison.overlap(fraction)
            texts = [[f"{value:.0%}" for value in row] for row in values]
            count = comparison.top_count(fraction)
            patches = "patch" if count == 1 else "patches"
            self.note.setText(
                f"Of the {count} highest {patches} of one map, how many are among those of the "
                f"other; unrelated maps share {fraction:.0%}."
            )
        numbered = [f"{number} {title}" for number, title in enumerate(comparison.titles, 1)]
        self.table.setColumnCount(len(numbered) + 1)
        self.table.setHorizontalHeaderLabels(["Map", *map(str, range(1, len(numbered) + 1))])
        fill(self.table, [[title, *row] for title, row in zip(numbered, texts, strict=True)])
        for row, col in np.ndindex(values.shape):
            item = self.table.item(row, col + 1)
            if item is not None and row != col and np.isfinite(values[row, col]):
                strength = float(np.clip(values[row, col], 0, 1))
                item.setBackground(QBrush(QColor(*_STRONG, round(150 * strength))))


def in_seconds(seconds: float) -> str:
    """Write a duration that may be very short."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


def in_mb(size: int | None) -> str:
    """Write bytes as MB, with digits where there are few."""
    if size is None:
        return "unknown"
    megabytes = size / 1e6
    return f"{megabytes:.1f} MB" if megabytes < 10 else f"{megabytes:.0f} MB"
