"""The section *Trust*: does the map on screen show what the model used?"""

from collections.abc import Sequence
from html import escape

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton

from napari_2dmamba.explain.faithfulness import Agreement, Faithfulness, Stability
from napari_2dmamba.plugin.inspect_widget.charts import CurvesChart
from napari_2dmamba.plugin.parts.section import Section


class TrustSection(Section):
    """Checks of a map and of the answer, in plain words.

    Signals
    -------
    check_wanted(name)
        Name of the map's layer.
    stability_wanted()
    """

    check_wanted = Signal(str)
    stability_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("How far to trust it", is_open=False)
        self._is_busy = False
        self.maps = QComboBox()
        self.check = QPushButton("Check this map")
        self.check.setToolTip(
            "Removes patches in the order of the map, and shows them in that order on an empty "
            "slide, and runs the model each time; random orders are the yardstick"
        )
        self.check.clicked.connect(lambda: self.check_wanted.emit(self.maps.currentText()))
        self.stability = QPushButton("Check stability")
        self.stability.setToolTip(
            "Runs the model on the grid flipped and rotated, and with patches left out at random"
        )
        self.stability.clicked.connect(self.stability_wanted)
        self.chart = CurvesChart()
        self.verdict = QLabel()
        self.verdict.setTextFormat(Qt.TextFormat.PlainText)  # it names a map, and so a class
        self.agreement = QLabel()
        self.steadiness = QLabel()
        rows = QFormLayout()
        rows.addRow("Map", self.maps)
        self.body.addLayout(rows)
        buttons = QHBoxLayout()
        buttons.addWidget(self.check)
        buttons.addWidget(self.stability)
        self.body.addLayout(buttons)
        self.body.addWidget(self.chart)
        for label in (self.verdict, self.agreement, self.steadiness):
            label.setWordWrap(True)
            label.hide()
            self.body.addWidget(label)

    def set_maps(self, names: list[str]) -> None:
        """Offer the maps that are layers now."""
        current = self.maps.currentText()
        self.maps.clear()
        self.maps.addItems(names)
        if current in names:
            self.maps.setCurrentText(current)
        self._allow()

    def set_busy(self, is_busy: bool) -> None:
        """Grey the checks while the model is asked something."""
        self._is_busy = is_busy
        self._allow()

    def _allow(self) -> None:
        self.check.setEnabled(self.maps.count() > 0 and not self._is_busy)
        self.stability.setEnabled(not self._is_busy)

    def show_check(self, name: str, found: Faithfulness, others: dict[str, Agreement]) -> None:
        """Show curves, verdict, and how alike other maps are."""
        self.chart.show_curves(found, name)
        self.verdict.setText(found.verdict(name))
        self.verdict.show()
        self.agreement.setText(areas_table(found) + agreement_table(others))
        self.agreement.show()

    def show_stability(self, found: Sequence[tuple[str, Stability]]) -> None:
        """Show what the stability checks say."""
        self.steadiness.setText(
            "<br>".join(f"<b>{what}</b>: {one.verdict()}" for what, one in found)
        )
        self.steadiness.show()

    def clear(self) -> None:
        """Show that nothing was checked yet."""
        for part in (self.chart, self.verdict, self.agreement, self.steadiness):
            part.hide()


def areas_table(found: Faithfulness) -> str:
    """Return the areas under the curves as a table; those of random orders as their range."""
    rows: list[tuple[str, ...]] = [("Area below the curve", "deletion", "insertion")]
    rows += [
        (name, f"{found.deletion[name].area:.3f}", f"{found.insertion[name].area:.3f}")
        for name in found.deletion
    ]
    spans = [
        (min(one.area for one in curves), max(one.area for one in curves))
        for curves in (found.random_deletion, found.random_insertion)
    ]
    rows.append(("random", *(f"{low:.3f}\u2013{high:.3f}" for low, high in spans)))
    return _table(rows)


def agreement_table(others: dict[str, Agreement]) -> str:
    """Return how alike other maps order the patches as a table."""
    if not others:
        return ""
    first = next(iter(others.values()))
    rows = [
        ("Agreement with", "ranks", f"top {first.k}"),
        *((name, f"{one.spearman:.2f}", f"{one.overlap:.0%}") for name, one in others.items()),
        ("by chance", "0", f"{first.expected_overlap:.0%}"),
    ]
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its first row in bold and numbers on the right."""
    made = []
    for number, (name, *cells) in enumerate(rows):
        look = "<b>{}</b>" if number == 0 else "{}"
        numbers = "".join(
            f"<td align='right' style='padding-left: 14px'>{look.format(cell)}</td>"
            for cell in cells
        )
        made.append(f"<tr><td>{look.format(escape(name))}</td>{numbers}</tr>")
    return f"<table cellspacing='0' style='margin-bottom: 6px'>{''.join(made)}</table>"
