import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import EvaluationError
from napari_2dmamba.evaluation.survival import (
    brier,
    concordance,
    evaluation_times,
    integrated_brier,
    risk_groups,
    survival_at,
    time_dependent_auc,
)
from tests.material import shared


@pytest.mark.parametrize("sub", range(8))
def test_published_concordance_and_its_pairs(sub: int) -> None:
    z = np.load(shared("golden/survival/cindex.npz"))
    found = concordance(z[f"c{sub}_risk"], z[f"c{sub}_time"], z[f"c{sub}_event"])
    index, *counts = z[f"c{sub}_result"]
    assert found.index == pytest.approx(index, abs=1e-12)
    assert [
        found.concordant, found.discordant, found.tied_risk, found.tied_time
    ] == counts  # fmt: skip


def test_concordance_by_hand() -> None:
    # Comparable: (1, 2), (1, 3), (1, 4), (3, 4); patient 2 is censored before 3 and 4.
    time, event = [1, 2, 3, 4], [True, False, True, False]
    assert concordance([4, 3, 2, 1], time, event).index == 1.0
    assert concordance([1, 2, 3, 4], time, event).index == 0.0
    assert concordance([4, 9, 2, 2 + 1e-9], time, event).index == pytest.approx(2.5 / 4)
    assert concordance([1, 2], [1, 2], [False, False]).index is None
    # At equal times the censored one has lived longer.
    assert concordance([2, 1], [1, 1], [True, False]).index == 1.0


patients = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 1.0 + 5e-9, 2.0]), st.integers(0, 4), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=80)
@given(patients)
def test_concordance_is_that_of_all_pairs(rows: list[tuple[float, int, bool]]) -> None:
    good = total = 0.0
    for risk, time, event in rows:
        for other_risk, other_time, other_event in rows:
            if event and (time < other_time or (time == other_time and not other_event)):
                total += 1
                tied = abs(risk - other_risk) <= 1e-8
                good += 0.5 if tied else float(risk > other_risk)
    found = concordance(*zip(*rows, strict=True))
    assert found.index == (pytest.approx(good / total) if total else None)


@settings(deadline=None, max_examples=12)
@given(patients)
def test_any_patients_give_numbers_or_none(rows: list[tuple[float, int, bool]]) -> None:
    risk, time, event = (list(values) for values in zip(*rows, strict=True))
    at = evaluation_times(time, event)
    auc = time_dependent_auc(risk, time, event, at)
    assert auc is None or np.isfinite(auc).all()
    score = integrated_brier(np.full((len(rows), len(at)), 0.5), time, event, at)
    assert score is None or score >= 0
    groups = risk_groups(risk, time, event)
    assert groups.p_value is None or 0 <= groups.p_value <= 1


@pytest.mark.parametrize("decimals", [0, 3])
def test_time_dependent_scores_are_those_of_scikit_survival(decimals: int) -> None:
    oracle = pytest.importorskip("sksurv.metrics", reason="scikit-survival is not installed")
    rng = np.random.default_rng(decimals)
    event_time = rng.exponential(10, 90).round(decimals)
    censored_time = rng.exponential(15, 90).round(decimals)
    time, event = np.minimum(event_time, censored_time), event_time <= censored_time
    risk = (rng.normal(0, 5, 90) - event_time).round()
    at = evaluation_times(time, event)
    survival = np.exp(-at[None] / rng.uniform(5, 15, 90)[:, None])
    y = np.array(list(zip(event, time, strict=True)), dtype=[("e", bool), ("t", float)])
    expected = oracle.cumulative_dynamic_auc(y, y, risk, at)[0]
    np.testing.assert_allclose(time_dependent_auc(risk, time, event, at), expected, atol=1e-7)
    expected = oracle.brier_score(y, y, survival, at)[1]
    np.testing.assert_allclose(brier(survival, time, event, at), expected, atol=1e-9)
    found = integrated_brier(survival, time, event, at)
    assert found == pytest.approx(oracle.integrated_brier_score(y, y, survival, at), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_time_dependent_scores_are_their_definitions(seed: int) -> None:
    """Times of one decimal, of which evaluation times are some, and ties of risk and time."""
    rng = np.random.default_rng(seed)
    lives, followed = rng.exponential(10, 40).round(1), rng.exponential(15, 40).round(1)
    time, event = np.minimum(lives, followed), lives <= followed
    risk = (rng.normal(0, 5, 40) - lives).round()
    at = evaluation_times(time, event)
    alive = np.exp(-at[None] / rng.uniform(5, 15, 40)[:, None])

    def uncensored(when: float) -> float:
        """Kaplan-Meier of the censoring; an event at the same time came before it."""
        share = 1.0
        for moment in np.unique(time[~event]):
            if moment <= when:
                censored = int(((time == moment) & ~event).sum())
                share *= 1 - censored / (int((time > moment).sum()) + censored)
        return share

    def auc_at(when: float) -> float:
        right = pairs = 0.0
        for i in np.flatnonzero((time <= when) & event):
            for j in np.flatnonzero(time > when):
                weight = 1 / uncensored(time[i])
                pairs += weight
                right += weight * ((risk[j] < risk[i]) + 0.5 * (risk[j] == risk[i]))
        return right / pairs

    def brier_at(when: float, survival: np.ndarray) -> float:
        each = [
            survival[i] ** 2 / uncensored(time[i]) if event[i] and time[i] <= when
            else (1 - survival[i]) ** 2 / uncensored(when) if time[i] > when
            else 0.0
            for i in range(40)
        ]  # fmt: skip
        return float(np.mean(each))

    expected = [auc_at(when) for when in at]
    np.testing.assert_allclose(time_dependent_auc(risk, time, event, at), expected, rtol=1e-12)
    expected = [brier_at(when, alive[:, k]) for k, when in enumerate(at)]
    np.testing.assert_allclose(brier(alive, time, event, at), expected, rtol=1e-12)


def test_without_censoring_the_brier_score_is_a_mean_square() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, bool)
    survival = np.array([[0.5, 0.2], [0.9, 0.4], [0.8, 0.7], [1.0, 0.9]])
    at = np.array([1.5, 2.5])
    truth = time[:, None] > at
    expected = ((truth - survival) ** 2).mean(0)
    np.testing.assert_allclose(brier(survival, time, event, at), expected, atol=1e-12)


def test_survival_runs_straight_between_the_edges_and_spare_outputs_are_passed_over() -> None:
    values = np.array([[0.8, 0.4, 0.3, 0.2]])  # four outputs, two bins
    found = survival_at(values, [0.5, 2.0, 4.0], [0.0, 1.0, 2.0, 3.0, 9.0])
    np.testing.assert_allclose(found, [[1.0, 0.9, 0.8, 0.6, 0.4]])


def test_risk_groups_part_at_the_median_and_are_tested() -> None:
    time = np.concatenate([np.arange(1, 21), np.arange(40, 60)]).astype(float)
    groups = risk_groups(-time, time, np.ones(40, bool))
    assert groups.high.sum() == 20
    assert groups.p_value is not None
    assert groups.p_value < 1e-6
    times, share = groups.curves["high risk"]
    assert share[times == 10.0] == pytest.approx(0.5)


def test_risks_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        concordance([np.nan, 1], [1, 2], [True, True])
    with pytest.raises(EvaluationError, match="do not belong together"):
        concordance([1], [1, 2], [True, True])
