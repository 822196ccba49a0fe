import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from napari_2dmamba.errors import EvaluationError
from napari_2dmamba.evaluation.classification import (
    auprc,
    auroc,
    calibration_error,
    classification_scores,
    confusion,
    ranking_auroc,
)
from napari_2dmamba.torchvision_compat import import_needing_torchvision
from tests.material import shared


def auroc_by_definition(scores, positive) -> float:
    """Chance that a positive scores higher than a negative, ties counting half."""
    s, p = np.asarray(scores), np.asarray(positive, bool)
    difference = s[p][:, None] - s[~p][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


@pytest.mark.parametrize("sub", range(4))
def test_published_numbers(sub: int) -> None:
    z = np.load(shared("golden/survival/cls_metrics.npz"))
    found = classification_scores(z[f"m{sub}_label"], z[f"m{sub}_probs"])
    np.testing.assert_allclose(
        [found["accuracy"], found["macro_f1"], found["auroc"]],
        z[f"m{sub}_acc_f1_auc"],
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_those_of_scikit_learn_and_torchmetrics(classes: int) -> None:
    """The latter in float32, as it computes, so to six digits."""
    functional = import_needing_torchvision("torchmetrics.functional.classification")
    rng = np.random.default_rng(classes)
    values, labels = rng.dirichlet(np.ones(classes), 90), rng.integers(0, classes, 90)
    p, y = torch.from_numpy(values), torch.from_numpy(labels)
    found = classification_scores(labels, values, ordinal=True)
    expected = {
        "accuracy": functional.multiclass_accuracy(p, y, classes, average="micro"),
        "balanced_accuracy": functional.multiclass_accuracy(p, y, classes, average="macro"),
        "macro_f1": functional.multiclass_f1_score(p, y, classes, average="macro"),
        "kappa": functional.multiclass_cohen_kappa(p, y, classes),
        "quadratic_kappa": functional.multiclass_cohen_kappa(p, y, classes, weights="quadratic"),
        "calibration_error": functional.multiclass_calibration_error(p, y, classes, n_bins=10),
        "log_loss": torch.nn.functional.nll_loss(p.log(), y),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-6), name
    chosen = range(1 if classes == 2 else 0, classes)
    each = [auroc_by_definition(values[:, k], labels == k) for k in chosen]
    assert found["auroc"] == pytest.approx(np.mean(each), abs=1e-12)
    tied = values.round(1)
    each = [metrics.average_precision_score(labels == k, tied[:, k]) for k in chosen]
    assert auprc(labels, tied) == pytest.approx(np.mean(each), abs=1e-12)
    guess = values.argmax(1)
    exact = {
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, guess),
        "macro_f1": metrics.f1_score(labels, guess, average="macro"),
        "kappa": metrics.cohen_kappa_score(labels, guess),
        "quadratic_kappa": metrics.cohen_kappa_score(labels, guess, weights="quadratic"),
    }
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=9),
    st.booleans(),
)
def test_any_labels_give_numbers_or_none(rows: list[tuple[int, int]], ordinal: bool) -> None:
    """One class, one slide, ties, absent classes."""
    labels = [label for label, _ in rows]
    values = np.array([np.eye(3)[k] if k < 3 else np.full(3, 1 / 3) for _, k in rows])
    found = classification_scores(labels, values, ordinal=ordinal)
    assert found["accuracy"] == pytest.approx(np.mean(values.argmax(1) == labels))
    for name, value in found.items():
        assert value is None or np.isfinite(value), name
    assert (found["auroc"] is None) == (len(set(labels)) < 3)
    assert confusion(labels, values).sum() == len(rows)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-3.0, 0.0, 1e-9, 2e-9, 0.5, 7.0]), st.booleans())))
def test_ranking_is_the_chance_of_a_right_order(scored: list[tuple[float, bool]]) -> None:
    scores, positive = [s for s, _ in scored], [p for _, p in scored]
    if len(set(positive)) < 2:
        assert ranking_auroc(scores, positive) is None
    else:
        assert ranking_auroc(scores, positive) == pytest.approx(
            auroc_by_definition(scores, positive)
        )


def test_attention_of_many_patches_is_not_rounded_together() -> None:
    # Attention over 20,000 patches differs in digits that float32 loses.
    scores = 5e-5 + 1e-12 * np.arange(100)
    assert ranking_auroc(scores, np.arange(100) >= 50) == 1.0
    values = np.stack([1 - scores, scores], 1)
    assert auroc(np.arange(100) >= 50, values) == 1.0


def test_calibration_by_hand() -> None:
    # Confidence 0.8 twice, right once: distance 0.3; confidence 0.6 twice, right twice: 0.4.
    values = np.array([[0.2, 0.8], [0.2, 0.8], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error([1, 0, 0, 0], values) == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("labels", "values", "says"),
    [
        ([0], [[np.nan, 1.0]], "no numbers from 0 to 1"),
        ([0, 1], [[0.5, 0.5]], "do not belong"),
        ([], np.empty((0, 2)), "no slide to score"),
        ([2], [[0.5, 0.5]], "there are 2 classes"),
    ],
)
def test_what_cannot_be_scored_is_said(labels, values, says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        classification_scores(labels, values)
