"""Plots of an evaluation, as SVG text."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba.evaluation import classification, survival
from napari_2dmamba.evaluation.scoring import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.2, 3.6)
_MOST_CLASSES = 10


def plots(found: Evaluation) -> dict[str, str]:
    """Return the plots that an evaluation has data for: title and SVG text."""
    told = found.predictions
    drawn: dict[str, Callable[[Axes], None]] = {}
    if told.kind == "survival":
        drawn["Survival by predicted risk"] = lambda axes: _kaplan_meier(axes, found)
        if found.details.get("auc_over_time"):
            drawn["AUC over time"] = lambda axes: _auc_over_time(axes, found)
    else:
        if found.scores["auroc"].value is not None and len(told.class_names) <= _MOST_CLASSES:
            drawn["ROC curve"] = lambda axes: _roc(axes, found)
            drawn["Precision and recall"] = lambda axes: _precision_recall(axes, found)
        drawn["Reliability"] = lambda axes: _reliability(axes, found)
        drawn["Confusion matrix"] = lambda axes: _confusion(axes, found)
    return {title: _svg(draw) for title, draw in drawn.items()}


def _svg(draw: "Callable[[Axes], None]") -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "path",
        "svg.hashsalt": "2dmamba",
        "font.size": 9,
        "text.parse_math": False,  # classes may be called after money
    }
    with mpl.rc_context(style):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _curves(found: Evaluation) -> list[tuple[str, np.ndarray, np.ndarray]]:
    told = found.predictions
    classes = [1] if len(told.class_names) == 2 else range(len(told.class_names))
    return [(told.class_names[k], told.labels == k, told.values[:, k]) for k in classes]


def _roc(axes: "Axes", found: Evaluation) -> None:
    from sklearn.metrics import roc_curve

    for name, positive, score in _curves(found):
        x, y, _ = roc_curve(positive, score)
        area = classification.ranking_auroc(score, positive)
        axes.plot(x, y, label=f"{name} ({area:.3f})")
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _precision_recall(axes: "Axes", found: Evaluation) -> None:
    from sklearn.metrics import precision_recall_curve

    for name, positive, score in _curves(found):
        precision, recall, _ = precision_recall_curve(positive, score)
        (line,) = axes.step(recall, precision, where="post", label=name)
        axes.axhline(positive.mean(), color=line.get_color(), lw=0.8, ls=":")
    axes.set(xlabel="recall", ylabel="precision (dotted: chance)", ylim=(0, 1.03))
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _reliability(axes: "Axes", found: Evaluation) -> None:
    told = found.predictions
    bins = classification.reliability(told.labels, told.values)
    held = bins.count > 0
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls="--")
    axes.plot(bins.confidence[held], bins.accuracy[held], marker="o", ms=4)
    for x, y, n in zip(bins.confidence[held], bins.accuracy[held], bins.count[held], strict=True):
        axes.annotate(str(n), (x, y), (3, 4), textcoords="offset points", fontsize=7, color="0.4")
    low = 1 / len(told.class_names)
    axes.set(xlabel="predicted probability of the answer", ylabel="share of right answers",
             xlim=(min(low, 0.5) - 0.02, 1.02), ylim=(-0.03, 1.03))  # fmt: skip


def _confusion(axes: "Axes", found: Evaluation) -> None:
    told = found.predictions
    counts = classification.confusion(told.labels, told.values)
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(counts)):
        for column in range(len(counts)):
            axes.text(column, row, str(counts[row, column]), ha="center", va="center",
                      color="white" if share[row, column] > 0.6 else "black")  # fmt: skip
    names = [name if len(name) < 18 else name[:16] + "…" for name in told.class_names]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="label")


def _kaplan_meier(axes: "Axes", found: Evaluation) -> None:
    told = found.predictions
    groups = survival.risk_groups(*told.of_patients())
    for name, (time, share) in groups.curves.items():
        members = groups.high if name == "high risk" else ~groups.high
        axes.step(time, share, where="post", label=f"{name} ({int(members.sum())} patients)")
    if groups.p_value is not None:
        axes.set_title(f"log-rank p = {groups.p_value:.2g}", fontsize=9)
    axes.set(xlabel="time", ylabel="survival (Kaplan-Meier)", ylim=(0, 1.03))
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _auc_over_time(axes: "Axes", found: Evaluation) -> None:
    axes.plot(found.details["times"], found.details["auc_over_time"], marker="o", ms=3)
    axes.axhline(0.5, color="0.7", lw=0.8, ls="--")
    axes.set(xlabel="time", ylabel="AUC", ylim=(0, 1.03))
