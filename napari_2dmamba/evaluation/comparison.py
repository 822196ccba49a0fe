"""Whether one model is better than another on the same slides."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_2dmamba.errors import Cancelled, EvaluationError
from napari_2dmamba.evaluation import classification, survival
from napari_2dmamba.evaluation.predictions import Predictions
from napari_2dmamba.settings import StopCallback


@dataclass(frozen=True)
class Difference:
    """Score of the first model, of the second, and how sure the difference is.

    Attributes
    ----------
    score
        Name of what is compared.
    first, second
        The two scores.
    p_value
        Two-sided.
    test
        How it was found.
    """

    score: str
    first: float
    second: float
    p_value: float
    test: str


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[float, float, float]:
    """Return both AUROCs and the two-sided p of their difference (DeLong et al. 1988).

    Parameters
    ----------
    labels
        ``(n,)`` bool.
    first, second
        ``(n,)`` scores of the two models. Slides count as independent of each other.

    Raises
    ------
    EvaluationError
        For fewer than two slides of a class, or where the difference has no spread.
    """
    from scipy import stats  # for seconds of a start that may compare nothing

    positive = np.asarray(labels, bool)
    scores = np.stack([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        raise EvaluationError("DeLong's test needs two slides of each class at least; add slides")
    # Mid-ranks give, for each slide, the share of the other class it beats
    among_all = stats.rankdata(scores, axis=1)
    beaten = (among_all[:, positive] - stats.rankdata(scores[:, positive], axis=1)) / n
    beats = 1 - (among_all[:, ~positive] - stats.rankdata(scores[:, ~positive], axis=1)) / m
    areas = beaten.mean(1)
    covariance = np.cov(beaten) / m + np.cov(beats) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = areas[0] - areas[1]
    if variance <= 1e-18:
        if abs(difference) < 1e-12:
            return float(areas[0]), float(areas[1]), 1.0
        # Of perfect answers there is no spread to be seen, which is no certainty
        raise EvaluationError("DeLong's test finds no spread in these answers; add slides")
    p = 2 * stats.norm.sf(abs(difference) / np.sqrt(variance))
    return float(areas[0]), float(areas[1]), float(p)


def compare_models(
    first: Predictions,
    second: Predictions,
    *,
    permutations: int = 2000,
    seed: int = 0,
    should_stop: StopCallback | None = None,
) -> tuple[Difference, ...]:
    """Compare two models on the slides that both predicted.

    By exchanging the two predictions of randomly drawn patients, for AUROC and balanced
    accuracy or the concordance index; of two classes with one slide per patient also by
    DeLong's test. Of AUROC and concordance, which only ask for an order, ranks are exchanged, so
    that the scales of the two do not matter.

    Raises
    ------
    EvaluationError
        When they have no slides in common, several predictions of a slide, or other labels.
    Cancelled
        When ``should_stop()`` said so.
    """
    from scipy.stats import rankdata

    a, b = on_common_slides(first, second)
    groups = a.groups
    if a.risks is not None and b.risks is not None:
        # Models may have scales of their own; ranks can be exchanged
        a = replace(a, risks=rankdata(np.round(a.comparable_risks(), 8)))
        b = replace(b, risks=rankdata(np.round(b.comparable_risks(), 8)))
    found = []
    if a.kind != "survival" and a.values.shape[1] == 2 and len(np.unique(groups)) == len(groups):
        try:
            areas = delong(a.labels == 1, a.values[:, 1], b.values[:, 1])
            found.append(Difference("auroc", *areas, test="DeLong"))
        except EvaluationError:
            pass  # too few slides, or no spread: the permutations say what can be said
    names = ("concordance",) if a.kind == "survival" else ("auroc", "balanced_accuracy")
    rng = np.random.default_rng(seed)
    patients = np.unique(groups, return_inverse=True)[1]
    swaps = rng.integers(0, 2, (permutations, patients.max() + 1)).astype(bool)[:, patients]
    for name in names:
        p, q = a.values, b.values
        if name == "auroc":  # which asks for the order alone, whose scale both models share
            p, q = (rankdata(values, axis=0) / len(values) for values in (p, q))
        one, two = _score(name, a, p, a.risks), _score(name, b, q, b.risks)
        if one is None or two is None:
            continue
        extreme = 0
        for number, swap in enumerate(swaps):
            if number % 50 == 0 and should_stop is not None and should_stop():
                raise Cancelled
            values = [np.where(swap[:, None], y, x) for x, y in ((p, q), (q, p))]
            risks = [None, None] if a.risks is None or b.risks is None else [
                np.where(swap, b.risks, a.risks), np.where(swap, a.risks, b.risks)
            ]  # fmt: skip
            x, y = (_score(name, a, v, r) for v, r in zip(values, risks, strict=True))
            assert x is not None
            assert y is not None
            extreme += abs(x - y) >= abs(one - two) - 1e-12
        chance = (extreme + 1) / (permutations + 1)
        found.append(Difference(name, one, two, chance, f"{permutations} permutations by patient"))
    return tuple(found)


def _score(
    name: str, of: Predictions, values: NDArray[np.float64], risks: NDArray[np.float64] | None
) -> float | None:
    if name == "concordance":
        assert of.times is not None
        assert of.events is not None
        assert risks is not None
        return survival.concordance(risks, of.times, of.events).index
    if name == "auroc":
        return classification.auroc(of.labels, values)
    return classification.balanced_accuracy(classification.confusion(of.labels, values))


def on_common_slides(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Return two models' predictions of the slides that both predicted, in one order.

    Raises
    ------
    EvaluationError
        As `compare_models`.
    """
    if first.kind != second.kind or (
        first.kind != "survival" and first.class_names != second.class_names
    ):
        raise EvaluationError("the two models answer different questions; compare two of one task")
    for one in (first, second):
        if len(set(one.slides)) < len(one):
            raise EvaluationError(
                "a slide was predicted several times (repeated folds); compare one repeat at a time"
            )
    common = sorted(set(first.slides) & set(second.slides))
    if not common:
        raise EvaluationError("the two models have no slide in common; predict the same slides")
    a, b = (
        one.take(np.array([one.slides.index(name) for name in common])) for one in (first, second)
    )
    answers = ("labels",) if a.times is None else ("times", "events")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in answers)
    if not same:
        raise EvaluationError(
            "the same slides have different labels in the two tables; predict them again"
        )
    return a, b
