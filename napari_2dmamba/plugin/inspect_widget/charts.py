"""Answers before and after, and deletion and insertion curves, drawn."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from napari_2dmamba.explain.counterfactual import Counterfactual
from napari_2dmamba.explain.faithfulness import Curve, Faithfulness
from napari_2dmamba.models.prediction import UNUSED
from napari_2dmamba.plugin.parts.charts import Chart, shortened

_BEFORE, _AFTER, _RANDOM = "#9db7d5", "#2f6fb7", "#a0a0a0"
_OTHER_COLOURS = ("#c06020", "#30804a", "#8050a0", "#a03050")
_ROW_HEIGHT, _CURVES_HEIGHT, _SURVIVAL_HEIGHT = 40, 230, 190


class AnswerChart(Chart):
    """Probabilities, or survival, before and after an edit of the slide."""

    def show_change(self, found: Counterfactual) -> None:
        """Draw the two answers."""
        self.figure.clear()
        axes = self.figure.subplots()
        if found.after.probabilities is None and found.after.survival is None:
            self.setFixedHeight(60 + _ROW_HEIGHT)
            for outcome, shift, colour, label in (
                (found.before, -0.2, _BEFORE, "before"),
                (found.after, 0.2, _AFTER, "after"),
            ):
                axes.barh(shift, outcome.logits[0], height=0.36, color=colour, label=label)
            axes.axvline(0, color="#808080", linewidth=0.6)
            axes.set_yticks([0], ["risk"])
            axes.set_ylim(0.6, -0.6)
        elif found.after.probabilities is None:
            self.setFixedHeight(_SURVIVAL_HEIGHT)
            for outcome, colour, label in (
                (found.before, _BEFORE, "before"),
                (found.after, _AFTER, "after"),
            ):
                assert outcome.survival is not None
                bins = [name for name in outcome.class_names if not name.startswith(UNUSED)]
                steps = np.concatenate([[1.0], outcome.survival[: len(bins)]])
                axes.step(np.arange(len(steps)), steps, where="post", color=colour, label=label)
            axes.set_xticks(np.arange(len(steps)))
            axes.set_ylim(0, 1.03)
            axes.set_title("Survival", fontsize=9)
            axes.set_xlabel("time bin", fontsize=8)
        else:
            assert found.before.probabilities is not None
            names = found.after.class_names
            self.setFixedHeight(60 + _ROW_HEIGHT * len(names))
            rows = np.arange(len(names))
            for values, shift, colour, label in (
                (found.before.probabilities, -0.2, _BEFORE, "before"),
                (found.after.probabilities, 0.2, _AFTER, "after"),
            ):
                axes.barh(rows + shift, values, height=0.36, color=colour, label=label)
                for row, value in enumerate(values.tolist()):
                    axes.text(
                        min(value, 1.0) + 0.015, row + shift, f"{value:.3f}", va="center",
                        fontsize=8,
                    )  # fmt: skip
            axes.set_yticks(rows, [shortened(name) for name in names])
            axes.set_xlim(0, 1.16)
            axes.set_xticks([0, 0.5, 1])
            axes.set_ylim(len(names) - 0.4, -0.6)
        _legend(axes, self)
        self.finish([axes])


class CurvesChart(Chart):
    """Deletion and insertion curves of maps beside random orders."""

    def show_curves(self, found: Faithfulness, first: str) -> None:
        """Draw the curves; those of the map ``first`` stand out."""
        self.setFixedHeight(_CURVES_HEIGHT)
        self.figure.clear()
        left, right = self.figure.subplots(1, 2, sharey=True)
        for axes, curves, random, title, label in (
            (left, found.deletion, found.random_deletion, "Deletion", "patches removed"),
            (right, found.insertion, found.random_insertion, "Insertion", "patches shown"),
        ):
            _draw(axes, curves, random, first)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel(label, fontsize=8)
            axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        _legend(left, self)
        self.finish([left, right])


def _draw(axes: Axes, curves: dict[str, Curve], random: Sequence[Curve], first: str) -> None:
    for number, curve in enumerate(random):
        axes.plot(
            curve.share, curve.answer, color=_RANDOM, lw=0.8, alpha=0.7,
            label="random" if number == 0 else None,
        )  # fmt: skip
    others = [name for name in curves if name != first]
    for name, colour in zip(others, _OTHER_COLOURS, strict=False):
        axes.plot(curves[name].share, curves[name].answer, color=colour, lw=1.0, label=name)
    axes.plot(curves[first].share, curves[first].answer, color=_AFTER, lw=2.0, label=first)


def _legend(axes: Axes, chart: Chart) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = chart.figure.legend(
        handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    colour = chart.palette().windowText().color().name()
    for text in legend.get_texts():
        text.set_color(colour)
