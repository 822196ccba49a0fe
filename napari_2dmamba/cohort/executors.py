"""Who does the slides: this process, workers on this machine, or a Dask cluster."""

import dataclasses
import functools
import heapq
import os
import platform
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from napari_2dmamba.atomic_files import process_mark, sweep
from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.dask_cluster import (
    as_many_as_fit,
    connected,
    distributed_package,
    gpus_here,
    local_cluster,
    threads_each,
)
from napari_2dmamba.cohort.plan import forget_models
from napari_2dmamba.cohort.settings import CohortSettings
from napari_2dmamba.cohort.slide_task import SlideTask, TaskResult, do_slide
from napari_2dmamba.cohort.status import SlideStatus
from napari_2dmamba.cohort.stop_file import StopFile, StopFileReader
from napari_2dmamba.errors import CohortError
from napari_2dmamba.settings import StopCallback

Tell = Callable[[int, SlideStatus], None]

_A_MOMENT = 0.2
_MORE_THAN_SLIDES = 10**7
_MOST_HANDED_OUT = 1000  # more than a cluster has workers
_SECONDS_TO_STOP = 60
_SECONDS_FOR_OTHERS = 60


class Executor(Protocol):
    """Does slides in any order and says what became of them.

    Attributes
    ----------
    threads
        CPU threads that one slide may take; 0 leaves it to the settings.
    warnings
        Sentences about workers that are of no use.
    """

    threads: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """See above."""

    def submit(self, number: int, job: SlideTask) -> None:
        """Take on a slide."""

    def wait(self, tell: Tell) -> tuple[int, TaskResult] | None:
        """Return the next slide that ended, or None after a moment without one.

        ``tell`` is called on this thread with the rows of slides that go on.
        """

    def hold(self, is_held: bool) -> None:
        """Let the slides wait between batches, or go on; called at every turn."""

    def stop(self) -> Iterator[tuple[int, TaskResult]]:
        """Drop the slides not begun, stop the others between batches, and yield those."""

    def close(self) -> None:
        """Release the workers."""


class InProcess:
    """Slides one after the other in this process.

    Parameters
    ----------
    should_stop, should_pause
        Asked between batches, since `wait` comes back only at the end of a slide.
    """

    threads = 0
    warnings: tuple[str, ...] = ()

    def __init__(self, should_stop: StopCallback, should_pause: StopCallback) -> None:
        self._should_stop, self._should_pause = should_stop, should_pause
        self._jobs: deque[tuple[int, SlideTask]] = deque()

    def submit(self, number: int, job: SlideTask) -> None:
        """See `Executor`."""
        self._jobs.append((number, job))

    def wait(self, tell: Tell) -> tuple[int, TaskResult] | None:
        """See `Executor`."""
        if not self._jobs:
            time.sleep(_A_MOMENT)
            return None
        number, job = self._jobs.popleft()
        return number, do_slide(job, functools.partial(tell, number), self._stops)

    def _stops(self) -> bool:
        while self._should_pause() and not self._should_stop():
            time.sleep(_A_MOMENT)
        return self._should_stop()

    def hold(self, is_held: bool) -> None:
        """See `Executor`; the slides ask by themselves."""

    def stop(self) -> Iterator[tuple[int, TaskResult]]:
        """See `Executor`."""
        self._jobs.clear()
        return iter(())

    def close(self) -> None:
        """See `Executor`."""
        forget_models()


class DaskExecutor:
    """Slides as tasks of a Dask scheduler, which gives those of a lost worker to another.

    Parameters
    ----------
    client
        Connected.
    cohort
        Number of the run; names its tasks and news.
    out
        The cohort's folder. Workers go on while a file is in it, which shows as well that they
        see the folder at all.
    cluster
        Closed at the end together with the client, unless None.
    own_client
        Whether the client is closed at the end.
    threads
        See `Executor`.
    """

    def __init__(
        self,
        client: Any,
        cohort: str,
        out: Path,
        cluster: Any = None,
        own_client: bool = True,
        threads: int = 0,
    ) -> None:
        self.threads = threads
        self._client, self._cluster, self._own = client, cluster, own_client
        self._cohort, self._stop_file = (
            cohort,
            StopFile(out / f".at-work-{process_mark()}-{cohort}"),
        )
        sweep(out)
        self._news: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._handed_out: dict[int, _HandedOut] = {}
        self._later: list[tuple[int, int, SlideTask]] = []
        self._count = 0
        self._blind = _BlindWorkers(out)
        self._is_stopping = False
        client.subscribe_topic(cohort, self._hear)

    def _hear(self, event: tuple[float, Any]) -> None:
        _, (number, row) = event
        self._news.put((int(number), SlideStatus(**row)))

    def submit(self, number: int, job: SlideTask) -> None:
        """See `Executor`."""
        heapq.heappush(self._later, (job.attempt, number, job))  # from the top of the list
        self._hand_out()

    def _hand_out(self) -> None:
        """Give the scheduler more slides; it is not burdened with all of a long list at once."""
        most, where = _MOST_HANDED_OUT, {}
        if self._blind:
            # Those that see the folder now, two slides each, so that newcomers get some as well
            seeing = self._blind.others(self._client.nthreads())
            most, where = 2 * len(seeing), {"workers": seeing, "allow_other_workers": True}
        while self._later and len(self._handed_out) < most and not self._is_stopping:
            attempt, number, job = heapq.heappop(self._later)
            self._count += 1
            future = self._client.submit(
                _as_task,
                job,
                number,
                str(self._stop_file.path),
                key=f"{self._cohort}-{job.slide.path.stem}-{number}-{self._count}",
                priority=-(attempt * _MORE_THAN_SLIDES + number),
                pure=False,
                **where,
            )
            self._handed_out[number] = _HandedOut(job, future, job.row(states.WAITING))
            future.add_done_callback(functools.partial(self._hear_end, number))

    def _hear_end(self, number: int, future: Any) -> None:
        self._news.put((number, future))

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `Executor`."""
        return self._blind.sentences

    def wait(self, tell: Tell) -> tuple[int, TaskResult] | None:
        """See `Executor`."""
        with suppress(queue.Empty):
            while True:
                number, news = self._news.get(timeout=_A_MOMENT)
                known = self._handed_out.get(number)
                if known is None:
                    continue
                if isinstance(news, SlideStatus):
                    known.row = news
                    tell(number, news)
                elif known.future is news:
                    del self._handed_out[number]
                    outcome = self._outcome(known)
                    if isinstance(outcome, TaskResult):
                        self._hand_out()
                        return number, outcome
                    self._pass_on(number, known.job, outcome)
        if self._blind and not self._is_stopping:
            self._blind.require_others(self._client.nthreads())
            self._hand_out()
        if self._client.status not in ("running", "connecting"):
            raise CohortError(
                "the Dask scheduler cannot be reached any more; start it again and run the same "
                "command: what is done is kept"
            )
        return None

    def _pass_on(self, number: int, job: SlideTask, worker: "_CannotSee") -> None:
        """Keep a slide for another worker."""
        if not self._is_stopping:  # then the file by which workers see the folder is gone
            self._blind.add(worker)
            self.submit(number, job)

    def _outcome(self, ended: "_HandedOut") -> "TaskResult | _CannotSee":
        future, row = ended.future, ended.row
        if future.status == "finished":
            outcome: TaskResult | _CannotSee = future.result()
            return outcome
        name = row.name
        error = future.exception() if future.status == "error" else None
        kind = type(error).__name__
        if kind == "KilledWorker":
            reason = (
                f"the process that worked on {name} died again and again "
                f"({getattr(error, 'allowed_failures', 3) + 1} workers were lost), which happens "
                "when memory runs out; give it fewer workers, or more memory"
            )
        elif isinstance(error, ImportError):
            reason = (
                f"a worker cannot import {error.name or 'a package'}; install napari-2dmamba on "
                "the workers, in the version that runs here"
            )
        elif error is None:
            reason = f"the Dask scheduler dropped {name}; look into its log, and run it again"
        else:
            reason = f"{name} failed on its worker ({kind}: {error})".partition("\n")[0]
        row = dataclasses.replace(row, state=states.FAILED, reason=reason, message="")
        return TaskResult(row, worth_retrying=kind not in ("KilledWorker", "ImportError"))

    def hold(self, is_held: bool) -> None:
        """See `Executor`."""
        self._stop_file.hold(is_held)

    def stop(self) -> Iterator[tuple[int, TaskResult]]:
        """See `Executor`."""
        self._is_stopping = True
        self._stop_file.stop()
        self._later.clear()
        waiting = {n for n, one in self._handed_out.items() if one.row.state != states.RUNNING}
        self._client.cancel([self._handed_out.pop(number).future for number in waiting])
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while self._handed_out and time.monotonic() < deadline:
            ended = self.wait(lambda number, row: None)
            if ended is not None:
                yield ended

    def close(self) -> None:
        """See `Executor`."""
        with suppress(Exception):  # a scheduler that is gone has nothing left to release
            self._client.unsubscribe_topic(self._cohort)
            self._client.cancel([one.future for one in self._handed_out.values()])
        if self._own:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        self._stop_file.stop()


@dataclasses.dataclass
class _HandedOut:
    """A slide that the scheduler has, and the last that was heard of it."""

    job: SlideTask
    future: Any
    row: SlideStatus


@dataclasses.dataclass(frozen=True)
class _CannotSee:
    """What a worker says that does not see the cohort's folder."""

    address: str
    machine: str


class _BlindWorkers:
    """Workers that do not see the cohort's folder; false while there are none."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._machines: dict[str, str] = {}
        self._alone_since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._machines)

    def add(self, worker: _CannotSee) -> None:
        """Take in a worker."""
        self._machines[worker.address] = worker.machine

    def others(self, addresses: Iterable[str]) -> list[str]:
        """Return which of some workers may see the folder."""
        return [address for address in addresses if address not in self._machines]

    def require_others(self, addresses: Iterable[str]) -> None:
        """Refuse to go on when for long there was no worker that may see the folder."""
        now = time.monotonic()
        if self.others(addresses):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > _SECONDS_FOR_OTHERS:
            raise CohortError(f"there is no worker that can write the results: {self.sentences[0]}")

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to say of them, one sentence per machine."""
        return tuple(
            f"the worker {machine} does not see {self._out} and was given no slides; let every "
            "worker mount that folder, and the slides, under the same path"
            for machine in dict.fromkeys(self._machines.values())
        )


def _as_task(job: SlideTask, number: int, go_on: str) -> TaskResult | _CannotSee:
    """Do a slide on a Dask worker."""
    from distributed import get_worker

    worker = get_worker()

    def tell(row: SlideStatus) -> None:
        worker.log_event(job.plan.cohort, (number, dataclasses.asdict(row)))

    if not os.path.exists(go_on):
        return _CannotSee(worker.address, platform.node())
    return do_slide(job, tell, StopFileReader(Path(go_on)).should_stop)


def gather(
    settings: CohortSettings,
    slides: int,
    cohort: str,
    out: Path,
    *,
    device: str,
    client: Any = None,
    should_stop: StopCallback = lambda: False,
    should_pause: StopCallback = lambda: False,
) -> Executor:
    """Return who does the slides.

    Parameters
    ----------
    settings
        How many workers, and where.
    slides
        How many slides there are: more workers are not started.
    cohort, out
        Number and folder of the run.
    device
        The device that was asked for; workers share GPUs out only where it is left open.
    client
        A `distributed.Client` to use instead.
    should_stop, should_pause
        For work in this process.

    Raises
    ------
    CohortError
        When Dask is not installed, or the scheduler does not answer.
    """
    if client is not None:
        return DaskExecutor(client, cohort, out, own_client=False)
    if settings.dask is not None:
        return DaskExecutor(connected(settings.dask), cohort, out)
    gpus = gpus_here() if device in ("auto", "cuda") else []
    workers = min(settings.workers or as_many_as_fit(gpus), slides)
    if workers <= 1 and not settings.apart:
        return InProcess(should_stop, should_pause)
    cluster = local_cluster(workers, gpus)
    client = distributed_package().Client(cluster)
    return DaskExecutor(client, cohort, out, cluster, threads=threads_each(workers))
