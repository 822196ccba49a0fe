import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.training.metrics import class_auroc, concordance_index, patch_auroc


def auroc_by_definition(scores: list[float], positive: list[bool]) -> float:
    """Chance that a positive scores higher than a negative, ties counting half."""
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, is_p in zip(scores, positive, strict=True) if is_p
        for n, is_n in zip(scores, positive, strict=True) if not is_n
    ]  # fmt: skip
    return float(np.mean(pairs))


@settings(deadline=None)  # the first call imports torchmetrics
@given(st.lists(st.tuples(st.sampled_from([-3.0, 0.0, 1e-9, 2e-9, 0.5, 7.0]), st.booleans())))
def test_patch_auroc_is_the_chance_of_a_right_order(scored: list[tuple[float, bool]]) -> None:
    scores, positive = [s for s, _ in scored], [p for _, p in scored]
    if len(set(positive)) < 2:
        assert not scored or patch_auroc(scores, positive) is None
    else:
        assert patch_auroc(scores, positive) == pytest.approx(auroc_by_definition(scores, positive))


def test_attention_of_many_patches_is_not_rounded_together() -> None:
    # Attention over 20,000 patches differs in digits that a sigmoid in float32 loses.
    scores = 5e-5 + 1e-12 * np.arange(100)
    assert patch_auroc(scores, np.arange(100) >= 50) == 1.0


def test_class_auroc_is_the_macro_average_of_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 40)
    labels = rng.integers(0, 3, 40)
    each = [auroc_by_definition(list(probabilities[:, k]), list(labels == k)) for k in range(3)]
    assert class_auroc(probabilities, labels) == pytest.approx(np.mean(each))
    assert class_auroc(probabilities, np.minimum(labels, 1)) is None


def test_concordance_by_hand() -> None:
    # Comparable: (1, 2), (1, 3), (1, 4), (3, 4); patient 2 is censored before 3 and 4.
    time, event = [1, 2, 3, 4], [True, False, True, False]
    assert concordance_index([4, 3, 2, 1], time, event) == 1.0
    assert concordance_index([1, 2, 3, 4], time, event) == 0.0
    assert concordance_index([4, 9, 2, 2], time, event) == pytest.approx(2.5 / 4)
    assert concordance_index([1, 2], [1, 2], [False, False]) is None
