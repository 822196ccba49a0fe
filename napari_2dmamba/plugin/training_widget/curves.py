"""Loss and score of every model over its epochs, drawn while they come."""

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_2dmamba.plugin.parts.charts import Chart

if TYPE_CHECKING:
    from napari_2dmamba.training import Epoch

_MS_BETWEEN_DRAWINGS = 500
_MOST_IN_LEGEND = 10
_COLOURS = (
    "#2f6fb7", "#c8553d", "#2c8a43", "#8a5fb0", "#b8860b", "#1b998b", "#d1495b", "#5f6b7a",
    "#7a4419", "#3d348b",
)  # fmt: skip


class Curves(QWidget):
    """Curves of the losses, and of the score of the validation part.

    They are drawn at most twice a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, dict[int, Epoch]] = {}
        self.score_name = "Score"
        self.hint = QLabel("Curves are drawn after the first epoch.")
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.chart = Chart()
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 0)
        box.addWidget(self.hint, 1)
        box.addWidget(self.chart, 1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_MS_BETWEEN_DRAWINGS)
        self._timer.timeout.connect(self.draw)

    def clear(self) -> None:
        """Forget all epochs."""
        self.history.clear()
        self._timer.stop()
        self.chart.hide()
        self.hint.show()

    def add(self, model: str, epoch: "Epoch") -> None:
        """Take in an epoch; one that is known already stands once."""
        self.history.setdefault(model, {})[epoch.epoch] = epoch
        if not self._timer.isActive():
            self._timer.start()

    def draw(self) -> None:
        """Draw what there is."""
        if not self.history:
            return
        self.hint.hide()
        figure = self.chart.figure
        figure.clear()
        losses, scores = figure.subplots(1, 2)
        for number, (model, known) in enumerate(self.history.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            epochs = [known[key] for key in sorted(known)]
            at = [one.epoch + 1 for one in epochs]
            look: dict[str, Any] = {"color": colour, "marker": "." if len(at) < 3 else ""}
            losses.plot(at, [one.training_loss for one in epochs], "--", lw=0.9, **look)
            validated = [one.validation_loss for one in epochs]
            losses.plot(at, _numbers(validated), "-", lw=1.6, label=model, **look)
            scores.plot(at, _numbers([one.validation_score for one in epochs]), lw=1.6, **look)
        losses.set_title("Loss (dashed: training, solid: validation)", fontsize=9)
        scores.set_title(f"{self.score_name} of the validation part", fontsize=9)
        scores.set_ylim(-0.03, 1.03)
        every = (one for epochs in self.history.values() for one in epochs.values())
        if all(one.validation_score is None for one in every):
            words = "none: no validation part, or too few slides in it"
            scores.text(0.5, 0.5, words, ha="center", fontsize=8, transform=scores.transAxes)
        for axes in (losses, scores):
            axes.set_xlabel("epoch", fontsize=8)
            axes.xaxis.get_major_locator().set_params(integer=True)
        if len(self.history) <= _MOST_IN_LEGEND:
            losses.legend(
                fontsize=7, frameon=False, labelcolor=self.palette().windowText().color().name()
            )
        self.chart.finish([losses, scores])


def _numbers(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
