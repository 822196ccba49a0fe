"""Scores of classifications, in float64."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_2dmamba.errors import EvaluationError

TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "kappa": "Cohen's kappa",
    "quadratic_kappa": "Quadratic kappa",
    "calibration_error": "Calibration error",
    "log_loss": "Log loss",
}
"""Names for people, in the order in which they are told."""

BINS = 10
"""Bins of equal width that the calibration error is made of."""


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray, NDArray]:
    """Return labels ``(n,)`` int64 and probabilities ``(n, K)`` float64.

    Raises
    ------
    EvaluationError
        When they do not belong together, or are no probabilities.
    """
    target = np.asarray(labels, np.int64)
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2 or len(values) != len(target) or values.shape[1] < 2:
        raise EvaluationError(
            f"probabilities of shape {values.shape} do not belong to {len(target)} labels; give "
            "one row per slide and one column per class"
        )
    if not len(values):
        raise EvaluationError("there is no slide to score; give at least one")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1 + 1e-9:
        raise EvaluationError("some probabilities are no numbers from 0 to 1; predict them again")
    if target.min() < 0 or target.max() >= values.shape[1]:
        raise EvaluationError(
            f"labels run from {target.min()} to {target.max()}, but there are "
            f"{values.shape[1]} classes"
        )
    return target, values


def classification_scores(
    labels: ArrayLike, probabilities: ArrayLike, *, ordinal: bool = False
) -> dict[str, float | None]:
    """Return all scores; None where one has no meaning for these labels.

    Parameters
    ----------
    labels
        ``(n,)`` class indices.
    probabilities
        ``(n, K)``.
    ordinal
        Whether classes are in order, so that quadratic kappa means something.

    Raises
    ------
    EvaluationError
        See `checked`.
    """
    target, values = checked(labels, probabilities)
    counts = confusion(target, values)
    likelihood = np.clip(values[np.arange(len(target)), target], 1e-15, 1)
    scores: dict[str, float | None] = {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "balanced_accuracy": balanced_accuracy(counts),
        "macro_f1": macro_f1(counts),
        "auroc": auroc(target, values),
        "auprc": auprc(target, values),
        "kappa": kappa(counts),
        "calibration_error": calibration_error(target, values),
        "log_loss": float(-np.log(likelihood).mean()),
    }
    if ordinal:
        scores["quadratic_kappa"] = kappa(counts, quadratic=True)
    return scores


def balanced_accuracy(counts: NDArray[np.int64]) -> float | None:
    """Return the mean, over the classes there are, of the share found; None of one class.

    Parameters
    ----------
    counts
        See `confusion`.
    """
    of_class = counts.sum(1)
    there = of_class > 0
    if there.sum() < 2:
        return None
    return float((np.diag(counts)[there] / of_class[there]).mean())


def macro_f1(counts: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that are labels or answers; see `confusion`."""
    sizes = counts.sum(0) + counts.sum(1)
    there = sizes > 0
    return float((2 * np.diag(counts)[there] / sizes[there]).mean())


def kappa(counts: NDArray[np.int64], *, quadratic: bool = False) -> float | None:
    """Return Cohen's kappa; None where labels and answers are all of one class."""
    classes = np.arange(len(counts))
    distance = (classes[:, None] - classes) ** 2 if quadratic else classes[:, None] != classes
    by_chance = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    expected = float((distance * by_chance).sum())
    return None if expected == 0 else float(1 - (distance * counts).sum() / expected)


def auroc(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the area under the ROC curve; of several classes the mean of one against the rest.

    None where a class is absent, so that it has no curve.
    """
    return _mean_over_classes(ranking_auroc, labels, probabilities)


def auprc(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the average precision, of several classes the mean; None as `auroc`."""
    return _mean_over_classes(average_precision, labels, probabilities)


def _mean_over_classes(
    score: Callable[[NDArray, NDArray], float | None], labels: ArrayLike, probabilities: ArrayLike
) -> float | None:
    target, values = checked(labels, probabilities)
    classes = range(1 if values.shape[1] == 2 else 0, values.shape[1])
    each = [score(values[:, k], target == k) for k in classes]
    defined = [value for value in each if value is not None]
    return float(np.mean(defined)) if len(defined) == len(each) else None


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Return the mean precision at each positive, ties entering together; None as for AUROC."""
    values, target = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if target.all() or not target.any():
        return None
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    found = np.cumsum(target[order])[last_of_tie]
    seen = np.flatnonzero(last_of_tie) + 1
    return float((np.diff(found, prepend=0) * found / seen).sum() / target.sum())


def ranking_auroc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Return how well any score ranks positives above the rest, such as attention the tumour.

    Parameters
    ----------
    scores
        ``(n,)`` in any range.
    positive
        ``(n,)`` bool.

    Returns
    -------
    None without both kinds.
    """
    from scipy.stats import rankdata  # for seconds of a start that may rank nothing

    target = np.asarray(positive, bool)
    if target.all() or not target.any():
        return None
    ranks = rankdata(np.asarray(scores, np.float64))
    m, n = int(target.sum()), int((~target).sum())
    return float((ranks[target].sum() - m * (m + 1) / 2) / (m * n))


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy in bins of the confidence: ``(bins,)`` each, NaN where empty."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> Reliability:
    """Bin slides by the probability of their most probable class, in bins of equal width."""
    target, values = checked(labels, probabilities)
    confidence = values.max(1)
    right = values.argmax(1) == target
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            np.bincount(place, confidence, bins) / count,
            np.bincount(place, right, bins) / count,
            count,
        )


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error: mean distance of confidence and accuracy."""
    found = reliability(labels, probabilities, bins)
    distance = np.nan_to_num(np.abs(found.confidence - found.accuracy))
    return float((distance * found.count).sum() / found.count.sum())


def confusion(labels: ArrayLike, probabilities: ArrayLike) -> NDArray[np.int64]:
    """Return ``(K, K)`` counts: rows are labels, columns what was predicted."""
    target, values = checked(labels, probabilities)
    classes = values.shape[1]
    flat = np.bincount(target * classes + values.argmax(1), minlength=classes * classes)
    return flat.reshape(classes, classes)
