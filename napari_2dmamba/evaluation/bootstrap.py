"""Intervals of scores, by drawing patients again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.settings import StopCallback


@dataclass(frozen=True)
class Score:
    """A score and how far it could be otherwise with other patients.

    Attributes
    ----------
    value
        None where it has no meaning for these labels.
    low, high
        Percentile interval; None without one.
    defined
        Share of the drawn samples on which the score had a meaning.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    defined: float = 1.0

    def __str__(self) -> str:
        if self.value is None:
            return "n/a"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], Mapping[str, float | None]],
    groups: NDArray[np.int64],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    should_stop: StopCallback | None = None,
) -> dict[str, Score]:
    """Score all rows, and intervals by drawing groups with replacement.

    Parameters
    ----------
    statistic
        Takes row indices (with repeats) and returns named scores.
    groups
        ``(n,)``, the patient of each row; a drawn patient brings all rows.
    resamples
        0 gives no intervals.

    Raises
    ------
    Cancelled
        When ``should_stop()`` said so.
    """
    values = statistic(np.arange(len(groups)))
    if not resamples:
        return {name: Score(value) for name, value in values.items()}
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for number in range(resamples):
        if number % 50 == 0 and should_stop is not None and should_stop():
            raise Cancelled
        chosen = rng.integers(0, len(members), len(members))
        for name, value in statistic(np.concatenate([members[i] for i in chosen])).items():
            if value is not None and np.isfinite(value):
                drawn[name].append(value)
    tail = 50 * (1 - level)
    scores = {}
    for name, value in values.items():
        share = len(drawn[name]) / resamples
        if value is None or share < 0.5 or len(members) < 2:
            scores[name] = Score(value, defined=share)
            continue
        low, high = np.percentile(drawn[name], [tail, 100 - tail])
        scores[name] = Score(value, float(low), float(high), share)
    return scores
