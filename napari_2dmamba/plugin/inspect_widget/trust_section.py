"""The section *Trust*: does the map on screen show what the model used?"""

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton

from napari_2dmamba.explain.faithfulness import Agreement, Faithfulness, Stability
from napari_2dmamba.plugin.inspect_widget.charts import CurvesChart
from napari_2dmamba.plugin.section import Section


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
        self.check.setEnabled(bool(names))

    def show_check(self, name: str, found: Faithfulness, others: dict[str, Agreement]) -> None:
        """Show curves, verdict, and how alike other maps are."""
        self.chart.show_curves(found, name)
        self.verdict.setText(found.verdict(name))
        self.verdict.show()
        lines = [
            f"{other}: rank correlation {one.spearman:.2f}; {one.overlap:.0%} of the top "
            f"{one.k} patches shared (by chance {one.expected_overlap:.0%})"
            for other, one in others.items()
        ]
        self.agreement.setText("<b>Agreement with</b><br>" + "<br>".join(lines))
        self.agreement.setVisible(bool(lines))

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
