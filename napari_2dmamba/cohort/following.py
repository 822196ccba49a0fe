"""What is known of a cohort at work: news from its thread, its pause, and how far it is."""

import threading
import time
from collections import Counter
from dataclasses import replace

from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.pace import in_words, share_of, time_left
from napari_2dmamba.cohort.status import SlideStatus


class Following:
    """A cohort from its start to its end.

    `put` and `paused` are for the thread that runs it, all else for the one that shows it.

    Parameters
    ----------
    slides
        How many this run does; a table may hold others besides.

    Attributes
    ----------
    paused
        Set while slides shall wait.
    """

    def __init__(self, slides: int) -> None:
        self.paused = threading.Event()
        self._slides = slides
        self._rows: dict[str, SlideStatus] = {}
        self._at_work: dict[str, SlideStatus] = {}
        self._states: Counter[str] = Counter()
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
        for row in rows:
            self._count(row)
        self._begun = self._begun or bool(self._at_work)
        return rows

    def _count(self, row: SlideStatus) -> None:
        before, self._rows[row.slide] = self._rows.get(row.slide), row
        if before is not None:
            self._states[before.state] -= 1
        self._states[row.state] += 1
        if row.state == states.RUNNING:
            self._at_work[row.slide] = row
        else:
            self._at_work.pop(row.slide, None)

    def progress(self) -> tuple[float, str] | None:
        """Return the share done, 0 to 1, and words for it; None until workers are there."""
        count, at_work = self._states, self._at_work.values()
        failed = count[states.FAILED]
        ended = count[states.DONE] + count[states.REUSED] + failed
        if not self._slides or not (self._begun or ended):
            return None
        done = ended + sum(map(share_of, at_work))
        words = [f"{ended} of {self._slides} slides"]
        words += [f"{failed} failed"] if failed else []
        if self.paused.is_set():
            words.append("paused")
        else:
            speed = sum(row.patches_per_second for row in at_work if row.patches_total)
            before = count[states.REUSED]  # took no time
            left = time_left(done - before, self._slides - before, self._worked)
            words += [f"{len(at_work)} at work"] if at_work else []
            words += [f"{speed:.3g} patches/s"] if speed else []
            words += [f"about {in_words(left)} left"] if left is not None else []
        return done / self._slides, " · ".join(words)

    def ended(self) -> list[SlideStatus]:
        """Return the last news, and what became of slides of which none will come any more."""
        last = {row.slide for row in self.take()}
        rows = ((row, _after_the_end(row)) for row in self._rows.values())
        return [after for row, after in rows if after is not row or row.slide in last]


def _after_the_end(row: SlideStatus) -> SlideStatus:
    if row.state in (states.RUNNING, states.ELSEWHERE):
        return replace(row, state=states.STOPPED, message="", reason="stopped")
    if row.state == states.WAITING and row.reason:  # it failed, and was to be tried again
        return replace(row, state=states.FAILED, message="")
    return row
