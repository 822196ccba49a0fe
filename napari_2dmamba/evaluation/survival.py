"""Scores of survival predictions, and the curves of risk groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_2dmamba.errors import EvaluationError
from napari_2dmamba.torchvision_compat import import_needing_torchvision

TITLES = {
    "concordance": "Concordance index",
    "time_dependent_auc": "Time-dependent AUC",
    "integrated_brier": "Integrated Brier score",
}
TIED = 1e-8
"""Risks that differ by no more count as equal, as in the published evaluation."""


@dataclass(frozen=True)
class Concordance:
    """Harrell's concordance index and the pairs it is made of.

    Attributes
    ----------
    index
        0 to 1; None when no pair can be compared.
    concordant, discordant, tied_risk
        Comparable pairs whose risks are ordered rightly, wrongly, or not at all.
    tied_time
        Comparable pairs of equal time, of which one has the event and the other is censored.
    """

    index: float | None
    concordant: int
    discordant: int
    tied_risk: int
    tied_time: int


def concordance(
    risk: ArrayLike, time: ArrayLike, event: ArrayLike, tied: float = TIED
) -> Concordance:
    """Compare all pairs of which it is known who had the event first (Harrell et al. 1982).

    A pair counts when the earlier time is an event, and also at equal times when one is an
    event and the other is censored, which is known to have lived longer. Equal risks count half.

    Parameters
    ----------
    risk, time, event
        ``(n,)`` each; event is true where the event was seen.
    tied
        Largest difference of risks that count as equal.

    Raises
    ------
    EvaluationError
        When lengths differ or a risk or time is not a number.
    """
    risks, times, events = checked(risk, time, event)
    concordant = discordant = tied_risk = tied_time = 0
    for index in np.flatnonzero(events):
        beside = (times == times[index]) & ~events
        other = risks[(times > times[index]) | beside]
        difference = other - risks[index]
        equal = np.abs(difference) <= tied
        lower = (difference < 0) & ~equal
        concordant += int(lower.sum())
        tied_risk += int(equal.sum())
        discordant += len(other) - int(lower.sum()) - int(equal.sum())
        tied_time += int(beside.sum())
    pairs = concordant + discordant + tied_risk
    index_ = (concordant + 0.5 * tied_risk) / pairs if pairs else None
    return Concordance(index_, concordant, discordant, tied_risk, tied_time)


def checked(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Return risks and times in float64 and events as bool, ``(n,)`` each.

    Raises
    ------
    EvaluationError
        When they do not belong together, or are not numbers.
    """
    risks, times = np.asarray(risk, np.float64), np.asarray(time, np.float64)
    events = np.asarray(event, bool)
    if not risks.shape == times.shape == events.shape or risks.ndim != 1:
        raise EvaluationError(
            f"{risks.shape} risks, {times.shape} times and {events.shape} events do not belong "
            "together; give one of each per patient"
        )
    if not (np.isfinite(risks).all() and np.isfinite(times).all()):
        raise EvaluationError("some risks or times are not finite numbers; predict them again")
    return risks, times, events


def evaluation_times(time: ArrayLike, event: ArrayLike, count: int = 10) -> NDArray[np.float64]:
    """Return times for time-dependent scores: between the 10 and 90 % quantiles of the events.

    Only times before the last censoring-free moment are kept, where the weights exist.
    """
    times, events = np.asarray(time, np.float64), np.asarray(event, bool)
    if events.sum() < 2:
        return np.empty(0)
    grid = np.unique(np.quantile(times[events], np.linspace(0.1, 0.9, count)))
    return grid[(grid < times.max()) & (grid > times.min())]


def time_dependent_auc(
    risk: ArrayLike, time: ArrayLike, event: ArrayLike, at: ArrayLike
) -> NDArray[np.float64] | None:
    """Return the cumulative/dynamic AUC at each time, weighted for censoring (Uno et al. 2007).

    Of patients with the event by a time and patients who live longer, how often the first have the
    higher risk; equal risks count half. All in 64 bit: a time rounded to 32 bit would lie beside
    the evaluation time that was taken from it.

    None where no time is given or the weights do not exist.
    """
    risks, times, events = checked(risk, time, event)
    wanted = np.asarray(at, np.float64)
    if not len(wanted) or not events.any():
        return None
    inverse = _inverse_probabilities(times, events, times)
    found = np.full(len(wanted), np.nan)
    for number, when in enumerate(wanted):
        case = events & (times <= when)
        controls = np.sort(risks[times > when])
        weight = inverse[case]
        if not len(controls) or not weight.sum() > 0:
            continue
        lower = np.searchsorted(controls, risks[case] - TIED, side="left")
        not_higher = np.searchsorted(controls, risks[case] + TIED, side="right")
        found[number] = weight @ (lower + not_higher) / (2 * weight.sum() * len(controls))
    return found if np.isfinite(found).all() else None


def brier(
    survival: ArrayLike, time: ArrayLike, event: ArrayLike, at: ArrayLike
) -> NDArray[np.float64] | None:
    """Return the Brier score at each time, weighted for censoring.

    Parameters
    ----------
    survival
        ``(n, len(at))``, predicted probability of surviving each time.
    """
    wanted = np.asarray(at, np.float64)
    times, events = np.asarray(time, np.float64), np.asarray(event, bool)
    values = np.asarray(survival, np.float64)
    if len(wanted) < 2 or not events.any():
        return None
    score = import_needing_torchvision("torchsurv.metrics.brier_score").BrierScore()
    found = score(
        *map(_tensor, (values, events, times)),
        new_time=_tensor(wanted),
        weight=_tensor(_inverse_probabilities(times, events, times)),
        weight_new_time=_tensor(_inverse_probabilities(times, events, wanted)),
    ).numpy()
    return found if np.isfinite(found).all() else None


def integrated_brier(
    survival: ArrayLike, time: ArrayLike, event: ArrayLike, at: ArrayLike
) -> float | None:
    """Return the Brier score averaged over time by the trapezoidal rule; None as `brier`."""
    scores = brier(survival, time, event, at)
    if scores is None:
        return None
    wanted = np.asarray(at, np.float64)
    return float(np.trapezoid(scores, wanted) / (wanted[-1] - wanted[0]))


def survival_at(
    survival: ArrayLike, edges: Sequence[float] | NDArray[np.float64], at: ArrayLike
) -> NDArray[np.float64]:
    """Return ``(n, len(at))`` survival between the edges of the bins, along straight lines.

    Parameters
    ----------
    survival
        ``(n, K)`` probability of surviving each bin; of more than ``len(edges) - 1`` columns
        the first are taken (published models have more outputs than bins).
    edges
        ``(bins + 1,)``.
    """
    bins = len(edges) - 1
    values = np.asarray(survival, np.float64)[:, :bins]
    knots = np.concatenate([np.ones((len(values), 1)), values], axis=1)
    x = np.asarray(edges, np.float64).copy()
    x[0] = min(0.0, x[0])
    wanted = np.asarray(at, np.float64)
    return np.stack([np.interp(wanted, x, row) for row in knots])


@dataclass(frozen=True)
class RiskGroups:
    """Patients above and below the median risk.

    Attributes
    ----------
    high
        ``(n,)`` bool.
    curves
        Per group: times and Kaplan-Meier survival, as steps.
    p_value, statistic
        Log-rank test; None without both groups or events.
    """

    high: NDArray[np.bool_]
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    p_value: float | None
    statistic: float | None


def risk_groups(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> RiskGroups:
    """Part patients at the median risk, and compare their survival."""
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import logrank_test

    risks, times, events = checked(risk, time, event)
    high = risks > np.median(risks)
    curves = {}
    for name, members in (("high risk", high), ("low risk", ~high)):
        if members.any():
            fitted = KaplanMeierFitter().fit(times[members], events[members])
            curve = fitted.survival_function_
            curves[name] = (curve.index.to_numpy(float), curve.iloc[:, 0].to_numpy(float))
    if len(curves) < 2 or not events.any():
        return RiskGroups(high, curves, None, None)
    test: Any = logrank_test(times[high], times[~high], events[high], events[~high])
    return RiskGroups(high, curves, float(test.p_value), float(test.test_statistic))


def _inverse_probabilities(times: NDArray, events: NDArray, when: NDArray) -> NDArray:
    """Return inverse probabilities of not being censored by each time of `when`; 0 for none.

    At equal times events come before censorings, which torchsurv's own weights do not heed.
    """
    moments = np.unique(times[~events])
    at_risk = (times[None] > moments[:, None]) | ((times[None] == moments[:, None]) & ~events)
    censored = (times[None] == moments[:, None]) & ~events
    free = np.cumprod(1 - censored.sum(1) / at_risk.sum(1))
    left = np.concatenate([[1.0], free])[np.searchsorted(moments, when, side="right")]
    return np.divide(1, left, out=np.zeros_like(left), where=left > 0)


def _tensor(values: NDArray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))
