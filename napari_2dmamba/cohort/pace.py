"""How far a cohort is, and how long it will take."""

from napari_2dmamba.cohort.status import FAILED, SlideStatus

_SMALLEST_SHARE, _FEWEST_SLIDES = 0.01, 5


def share_of(row: SlideStatus) -> float:
    """Return how much of a slide's work is done, 0 to 1; patches stand for all of it."""
    if row.good or row.state == FAILED:
        return 1.0
    return row.patches_done / row.patches_total if row.patches_total else 0.0


def time_left(done: float, slides: int, elapsed: float) -> float | None:
    """Return the seconds until all slides have ended, or None while nobody can tell.

    Slides count alike.

    Parameters
    ----------
    done
        Slides that have ended, and the shares of those at work; those whose results were there
        before took no time and do not count.
    slides
        All of this run, again without those.
    elapsed
        Seconds of work so far, pauses left out.
    """
    if done < min(_FEWEST_SLIDES, _SMALLEST_SHARE * slides):
        return None
    return elapsed * (slides - done) / done if done else 0.0


def in_words(seconds: float) -> str:
    """Return a duration: ``< 1 s``, ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 1:
        return "< 1 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
