"""What is known of a cohort at work: news from its thread, its pause, and how far it is."""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from napari_2dmamba.cohort import CohortSlide, SlideStatus
from napari_2dmamba.cohort import status as states
from napari_2dmamba.plugin.cohort_widget.pace import in_words, share_of, time_left


class Following:
    """A cohort from its start to its end.

    `put` and `paused` are for the thread that runs it, all else for the window's.

    Parameters
    ----------
    slides
        What is done in this run; a table may hold others besides.

    Attributes
    ----------
    paused
        Set while slides shall wait.
    """

    def __init__(self, slides: Iterable[CohortSlide]) -> None:
        self.paused = threading.Event()
        self._slides = {str(slide.path) for slide in slides}
        self._lock = threading.Lock()
        self._news: dict[str, SlideStatus] = {}
        self._begun = False
        self._worked, self._looked = 0.0, 0.0

    def put(self, row: SlideStatus) -> None:
        """Take in a row; of each slide only the newest is kept."""
        with self._lock:
            self._news[row.slide] = row

    def take(self) -> list[SlideStatus]:
        """Return what has come since the last time."""
        now = time.monotonic()
        if self._begun and not self.paused.is_set():
            self._worked += now - self._looked
        self._looked = now
        with self._lock:
            rows, self._news = list(self._news.values()), {}
        self._begun = self._begun or any(row.state == states.RUNNING for row in rows)
        return rows

    def progress(self, table: Iterable[SlideStatus]) -> tuple[float, str] | None:
        """Return the share done, 0 to 1, and words for it; None until workers are there."""
        rows = [row for row in table if row.slide in self._slides]
        ended = sum(row.good or row.state == states.FAILED for row in rows)
        if not rows or not (self._begun or ended):
            return None
        failed = sum(row.state == states.FAILED for row in rows)
        at_work = [row for row in rows if row.state == states.RUNNING]
        words = [f"{ended} of {len(rows)} slides"]
        words += [f"{failed} failed"] if failed else []
        if self.paused.is_set():
            words.append("paused")
        else:
            speed = sum(row.patches_per_second for row in at_work if row.patches_total)
            left = time_left(rows, self._worked)
            words += [f"{len(at_work)} at work"] if at_work else []
            words += [f"{speed:.3g} patches/s"] if speed else []
            words += [f"about {in_words(left)} left"] if left is not None else []
        return sum(map(share_of, rows)) / len(rows), " · ".join(words)

    def ended(self, table: Iterable[SlideStatus]) -> list[SlideStatus]:
        """Return the last news, and what became of slides of which none will come any more."""
        rows = {row.slide: row for row in table if row.slide in self._slides}
        rows |= {row.slide: row for row in self.take()}
        return [_after_the_end(row) for row in rows.values()]


def _after_the_end(row: SlideStatus) -> SlideStatus:
    if row.state in (states.RUNNING, states.ELSEWHERE):
        return replace(row, state=states.STOPPED, message="", reason="stopped")
    if row.state == states.WAITING and row.reason:  # it failed, and was to be tried again
        return replace(row, state=states.FAILED, message="")
    return row
