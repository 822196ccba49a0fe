"""How far a cohort is, and how long it will take."""

from collections.abc import Iterable

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.cohort.status import FAILED, REUSED

_SMALLEST_SHARE = 0.01


def share_of(row: SlideStatus) -> float:
    """Return how much of a slide's work is done, 0 to 1; patches stand for all of it."""
    if row.good or row.state == FAILED:
        return 1.0
    return row.patches_done / row.patches_total if row.patches_total else 0.0


def time_left(rows: Iterable[SlideStatus], elapsed: float) -> float | None:
    """Return the seconds until all slides have ended, or None while nobody can tell.

    Slides count alike; those whose results were there before took no time and do not count.

    Parameters
    ----------
    rows
        The slides of this run.
    elapsed
        Seconds of work so far, pauses left out.
    """
    shares = [share_of(row) for row in rows if row.state != REUSED]
    done = sum(shares) / len(shares) if shares else 1.0
    return None if done < _SMALLEST_SHARE else elapsed * (1 - done) / done


def in_words(seconds: float) -> str:
    """Return a duration: ``< 1 s``, ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 1:
        return "< 1 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
