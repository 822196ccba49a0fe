"""The work on one slide of a cohort, wherever it is done: it never raises, it reports."""

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import process_mark
from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.folders import WorkedOnElsewhere, claim, forget, worked_on
from napari_2dmamba.cohort.plan import FEATURES_FILE, CohortPlan
from napari_2dmamba.cohort.slide_log import LOG_FILE, log, logged
from napari_2dmamba.cohort.slides import CohortSlide
from napari_2dmamba.cohort.status import SlideStatus, read_status, write_status
from napari_2dmamba.errors import (
    Cancelled,
    CheckpointError,
    GridError,
    MissingMppError,
    TissueError,
    UserError,
)
from napari_2dmamba.features import MissingFeatureFactsError
from napari_2dmamba.settings import StopCallback
from napari_2dmamba.slide import Slide, open_slide
from napari_2dmamba.slide.addresses import stand_in

if TYPE_CHECKING:
    pass

HOPELESS = (MissingMppError, TissueError, CheckpointError, GridError, MissingFeatureFactsError)
"""Failures that trying again cannot mend."""

_SECONDS_BETWEEN_NEWS = 0.5


@dataclass(frozen=True)
class SlideTask:
    """One slide's turn.

    Attributes
    ----------
    plan, slide
        What is done to which slide.
    alone
        Whether no other slide of the cohort has its name.
    attempt
        Counted from 1.
    address
        Of a slide on the network, for workers on machines that do not know it yet. It may hold a
        secret, so that nothing prints it.
    """

    plan: CohortPlan
    slide: CohortSlide
    alone: bool
    attempt: int
    address: str | None = field(default=None, repr=False)

    def opened(self) -> Slide:
        """Open the slide."""
        path = self.slide.path if self.address is None else stand_in(self.address)
        return open_slide(path, mpp=self.slide.mpp)

    def row(self, state: str = states.RUNNING, **fields: Any) -> SlideStatus:
        """Return the slide's row in the table."""
        slide = self.slide
        return SlideStatus(
            slide=str(slide.path),
            state=state,
            label=slide.label,
            notes=dict(slide.notes),
            mpp=slide.mpp,
            regions="" if slide.regions is None else str(slide.regions),
            attempts=self.attempt,
            cohort=self.plan.cohort,
            **fields,
        )


@dataclass(frozen=True)
class TaskResult:
    """What became of a slide's turn, and whether another one may end better."""

    row: SlideStatus
    worth_retrying: bool = False


def do_slide(
    job: SlideTask, tell: Callable[[SlideStatus], None], should_stop: StopCallback | None
) -> TaskResult:
    """Do one slide and return what became of it; only an interrupt of the program is raised.

    Parameters
    ----------
    job
        The slide and the work.
    tell
        Called with the slide's row as it goes on, at most twice a second.
    should_stop
        Polled between batches.
    """
    turn = _Turn(job, tell)
    slide: Slide | None = None
    problem: Exception | None = None
    try:
        slide = job.opened()
        identity = slide.fingerprint
        turn.row = dataclasses.replace(turn.row, fingerprint=identity)
    except Exception as error:  # noqa: BLE001 - told below, in the slide's own folder
        problem = error
        identity = hashlib.sha256(str(job.slide.path).encode()).hexdigest()
    try:
        folder = claim(Path(job.plan.out), turn.row, identity, alone=job.alone)
        with worked_on(folder):
            return turn.take(folder, slide, problem, should_stop)
    except WorkedOnElsewhere:
        return TaskResult(dataclasses.replace(turn.row, state=states.ELSEWHERE, folder=str(folder)))
    except UserError as error:
        return TaskResult(turn.ended(states.FAILED, str(error)), worth_retrying=True)
    finally:
        if slide is not None:
            slide.close()


class _Turn:
    """One attempt at one slide: its row, its log, its news."""

    def __init__(self, job: SlideTask, tell: Callable[[SlideStatus], None]) -> None:
        self._job, self._tell = job, tell
        self._began = time.monotonic()
        self._told, self._counting = 0.0, False
        self._counted_from = 0, 0.0  # patches, and time less pauses
        self._paused = 0.0
        self.row = job.row(
            worker=_worker(),
            started=_now(),
            message="opening",
        )

    def take(
        self,
        folder: Path,
        slide: Slide | None,
        problem: Exception | None,
        should_stop: StopCallback | None,
    ) -> TaskResult:
        """Work in the slide's own folder, and keep there what became of it."""
        self.row = dataclasses.replace(self.row, folder=str(folder))
        with logged(folder):
            try:
                if problem is not None:
                    raise problem
                assert slide is not None
                return self._do(folder, slide, should_stop)
            except Cancelled:
                return TaskResult(self._kept(states.STOPPED, "stopped; what was finished is kept"))
            except UserError as error:
                row = self._kept(states.FAILED, str(error))
                return TaskResult(row, worth_retrying=not isinstance(error, HOPELESS))
            except Exception as error:  # noqa: BLE001 - whatever it is, the other slides go on
                log.exception("unexpected")
                words = f"{type(error).__name__}: {error}".partition("\n")[0]
                row = self._kept(
                    states.FAILED,
                    f"{self.row.name} failed unexpectedly ({words}); please report it with "
                    f"{folder / LOG_FILE}",
                )
                return TaskResult(row, worth_retrying=True)
            except BaseException:
                self._kept(states.STOPPED, "stopped; what was finished is kept")
                raise

    def _do(self, folder: Path, slide: Slide, should_stop: StopCallback | None) -> TaskResult:
        plan = self._job.plan
        if should_stop is not None and should_stop():
            raise Cancelled("stopped before it began")
        if not self._job.alone:
            plan.refuse_one_file_for_two(self._job.slide)
        regions = plan.regions_of(self._job.slide)
        key = plan.key(slide, regions)
        before = read_status(folder)
        own = before is not None and before.cohort == plan.cohort
        if before is not None:
            done = before.state == states.DONE and before.key == key and (own or not plan.fresh)
            if done and plan.is_whole(folder, before):
                return TaskResult(self._reused(before, own))
            if plan.fresh and not own:
                forget(folder)
        write_status(self.row)
        self._tell(self.row)

        def stops() -> bool:
            asked = time.monotonic()
            answer = should_stop is not None and should_stop()
            self._paused += time.monotonic() - asked
            return answer

        log.info("napari-2dmamba %s begins %s", __version__, self.row.name)
        found = plan.do(slide, folder, regions, self._on_progress, stops)
        self.row = dataclasses.replace(self.row, key=key, result=found)
        row = self.ended(states.DONE)
        write_status(row)
        log.info("done in %.1f s", row.seconds)
        return TaskResult(row)

    def _reused(self, before: SlideStatus, own: bool) -> SlideStatus:
        """Return an earlier result under the slide's present name, place and label."""
        plan = self._job.plan
        result = dict(before.result) | {
            "slide": self.row.name,
            "settings_digest": plan.settings_digest(),
        }
        if plan.checkpoint is not None:
            result["checkpoint"] = Path(plan.checkpoint).name
        if "folder" in result:
            result["folder"] = self.row.folder
        if "file" in result:
            result["file"] = str(Path(self.row.folder, FEATURES_FILE))
        row = dataclasses.replace(
            before,
            slide=self.row.slide,
            label=self.row.label,
            notes=self.row.notes,
            mpp=self.row.mpp,
            regions=self.row.regions,
            result=result,
        )
        if row != before:
            write_status(row)
        return row if own else dataclasses.replace(row, state=states.REUSED)

    def _on_progress(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        if not total or not self._counting:
            self._counting = total > 0
            self._counted_from = done, now - self._paused
            log.info("%s", message)
        elif done < total and now - self._told < _SECONDS_BETWEEN_NEWS:
            return
        self._told = now
        first, since = self._counted_from
        if self._counting and done > first:
            speed = (done - first) / max(now - self._paused - since, 1e-6)
            self.row = dataclasses.replace(self.row, patches_per_second=speed)
        self._tell(
            dataclasses.replace(self.row, patches_done=done, patches_total=total, message=message)
        )

    def _kept(self, state: str, reason: str) -> SlideStatus:
        """End in a state, in the slide's folder as well; a full disk must not hide the reason."""
        row = self.ended(state, reason)
        log.error("%s", reason)
        with contextlib.suppress(UserError):
            write_status(row)
        return row

    def ended(self, state: str, reason: str = "") -> SlideStatus:
        """Return the row with its end."""
        return dataclasses.replace(
            self.row,
            state=state,
            reason=reason,
            seconds=time.monotonic() - self._began,
            finished=_now(),
            message="",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _worker() -> str:
    """Return what tells workers apart: a hash of the machine, as tables are shared, and the pid."""
    return f"{process_mark().rpartition('-')[0]}:{os.getpid()}"
