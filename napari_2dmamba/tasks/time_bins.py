"""Time bins of discrete survival: quantiles of the times of those who had the event."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_2dmamba.errors import TaskError

MARGIN = 1e-6
"""The published bins reach so far beyond the first and the last time."""


def time_bins(times: ArrayLike, events: ArrayLike, count: int = 4) -> NDArray[np.float64]:
    """Return the edges ``(count + 1,)`` of the published time bins.

    The inner edges are quantiles of the times of patients with the event; the outer ones lie
    `MARGIN` beyond the first and the last time of all. A bin holds its left edge.

    Parameters
    ----------
    times, events
        ``(n,)`` each; events are true where the event was seen.
    count
        How many bins.

    Raises
    ------
    TaskError
        When there are too few different times for so many bins.
    """
    time, event = np.asarray(times, np.float64), np.asarray(events, bool)
    if not event.any():
        raise TaskError("all patients are censored, so there are no times to make bins of")
    edges = np.quantile(time[event], np.linspace(0, 1, count + 1))
    edges[0], edges[-1] = time.min() - MARGIN, time.max() + MARGIN
    if (np.diff(edges) <= 0).any():
        raise TaskError(
            f"the {int(event.sum())} events have too few different times for {count} bins; ask "
            "for fewer bins"
        )
    return edges


def bin_of(time: float, edges: Sequence[float] | NDArray[np.float64]) -> int:
    """Return the bin that holds a time; times outside count to the first or the last one."""
    position = int(np.searchsorted(np.asarray(edges), time, side="right")) - 1
    return min(max(position, 0), len(edges) - 2)
