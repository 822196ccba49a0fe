"""What the model says, drawn: class probabilities, or hazard and survival curves."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_2dmamba.models.prediction import SlidePrediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_HEIGHT = 30
_SURVIVAL_HEIGHT = 170
_LONGEST_NAME = 22


class Chart(QWidget):
    """A small figure in the window's colours, hidden until something is drawn.

    matplotlib is imported when the first one is drawn, so that the window opens sooner.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(0, 0, 0, 0)
        self.hide()

    @cached_property
    def figure(self) -> "Figure":
        """What to draw into; its canvas fills the widget."""
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        self._box.addWidget(FigureCanvasQTAgg(figure))
        return figure

    def finish(self, axes: "Sequence[Axes]") -> None:
        """Show what was drawn."""
        self._use_window_colours(axes)
        self.show()
        self.figure.canvas.draw_idle()

    def _use_window_colours(self, axes: "Sequence[Axes]") -> None:
        palette = self.palette()
        text = palette.color(QPalette.ColorRole.WindowText).name()
        self.figure.set_facecolor(palette.color(QPalette.ColorRole.Window).name())
        for axis in axes:
            axis.set_facecolor("none")
            axis.tick_params(colors=text, labelsize=8)
            for part in (axis.xaxis.label, axis.yaxis.label, axis.title, *axis.texts):
                part.set_color(text)
            for spine in axis.spines.values():
                spine.set_color(text)
                spine.set_linewidth(0.6)
            axis.spines[["top", "right"]].set_visible(False)


class PredictionChart(Chart):
    """Bars for a classification, two curves for a survival model."""

    def show_prediction(self, prediction: SlidePrediction) -> None:
        """Draw ``prediction`` in place of what was drawn before."""
        self.figure.clear()
        bins = prediction.survival_by_bin
        self.setVisible(prediction.task != "survival" or bool(bins))
        if prediction.task == "survival" and not bins:
            return  # a Cox model knows no curve
        if prediction.task == "survival":
            self.setFixedHeight(_SURVIVAL_HEIGHT)
            left, right = self.figure.subplots(1, 2)
            assert prediction.hazards is not None
            draw_hazards(left, prediction.hazards[: len(bins)])
            draw_survival(right, np.array([*bins.values()]))
            axes = [left, right]
        else:
            assert prediction.probabilities is not None
            self.setFixedHeight(24 + _ROW_HEIGHT * len(prediction.class_names))
            axes = [self.figure.subplots()]
            draw_probabilities(axes[0], prediction.class_names, prediction.probabilities)
        self.finish(axes)


def draw_probabilities(
    axes: "Axes", names: Sequence[str], probabilities: NDArray[np.float64]
) -> None:
    """Draw one bar per class, the first on top, the most probable in full colour."""
    rows = np.arange(len(names))
    best = int(np.argmax(probabilities))
    colours = ["#2f6fb7" if row == best else "#9db7d5" for row in rows]
    axes.barh(rows, probabilities, color=colours, height=0.62)
    for row, value in enumerate(probabilities.tolist()):
        axes.text(min(value, 1.0) + 0.015, row, f"{value:.3f}", va="center", fontsize=8)
    axes.set_yticks(rows, [shortened(name) for name in names])
    axes.set_xlim(0, 1.14)
    axes.set_xticks([0, 0.5, 1])
    axes.set_ylim(len(names) - 0.4, -0.6)


def draw_hazards(axes: "Axes", hazards: NDArray[np.float64]) -> None:
    """Draw the hazard of every time bin."""
    bins = np.arange(1, len(hazards) + 1)
    axes.bar(bins, hazards, color="#2f6fb7", width=0.7)
    axes.set_xticks(bins)
    axes.set_ylim(0, 1)
    axes.set_title("Hazard", fontsize=9)
    axes.set_xlabel("time bin", fontsize=8)


def draw_survival(axes: "Axes", survival: NDArray[np.float64]) -> None:
    """Draw the survival curve, a step after every time bin, starting at 1."""
    bins = np.arange(len(survival) + 1)
    axes.step(bins, np.concatenate([[1.0], survival]), where="post", color="#2f6fb7")
    axes.set_xticks(bins)
    axes.set_ylim(0, 1.03)
    axes.set_title("Survival", fontsize=9)
    axes.set_xlabel("time bin", fontsize=8)


def shortened(name: str) -> str:
    """Return a name that fits beside a chart, and in which no dollar begins a formula."""
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return short.replace("$", r"\$")
