"""Who does the slides: this process, workers on this machine, or a Dask cluster."""

import dataclasses
import functools
import os
import platform
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from napari_2dmamba.atomic_files import process_mark, sweep
from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.settings import CohortSettings
from napari_2dmamba.cohort.slide_task import SlideTask, TaskResult, do_slide, forget_models
from napari_2dmamba.cohort.status import SlideStatus
from napari_2dmamba.cohort.stop_file import StopFile, StopFileReader
from napari_2dmamba.errors import CohortError
from napari_2dmamba.settings import StopCallback

Tell = Callable[[int, SlideStatus], None]

_CORES_PER_WORKER = 4
_GB_PER_WORKER = 2
_A_MOMENT = 0.2
_MORE_THAN_SLIDES = 10**7
_SECONDS_TO_STOP = 60
_SECONDS_TO_CONNECT = 20
_LONGER_THAN_ANY_RESTART = "1 hour"


class Executor(Protocol):
    """Does slides in any order and says what became of them.

    Attributes
    ----------
    threads
        CPU threads that one slide may take; 0 leaves it to the settings.
    """

    threads: int

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
        self._futures: dict[int, Any] = {}
        self._rows: dict[int, SlideStatus] = {}
        self._count = 0
        client.subscribe_topic(cohort, self._hear)

    def _hear(self, event: tuple[float, Any]) -> None:
        _, (number, row) = event
        self._news.put((int(number), SlideStatus(**row)))

    def submit(self, number: int, job: SlideTask) -> None:
        """See `Executor`."""
        self._count += 1
        future = self._client.submit(
            _as_task,
            job,
            number,
            str(self._stop_file.path),
            key=f"{self._cohort}-{job.slide.path.stem}-{number}-{self._count}",
            priority=-(job.attempt * _MORE_THAN_SLIDES + number),  # from the top of the list
            pure=False,
        )
        self._rows[number] = job.row(states.WAITING)
        self._futures[number] = future
        future.add_done_callback(lambda done: self._news.put((number, done)))

    def wait(self, tell: Tell) -> tuple[int, TaskResult] | None:
        """See `Executor`."""
        with suppress(queue.Empty):
            while True:
                number, news = self._news.get(timeout=_A_MOMENT)
                if isinstance(news, SlideStatus):
                    if number in self._futures:
                        self._rows[number] = news
                        tell(number, news)
                elif self._futures.get(number) is news:
                    return number, self._outcome(number, self._futures.pop(number))
        if self._client.status not in ("running", "connecting"):
            raise CohortError(
                "the Dask scheduler cannot be reached any more; start it again and run the same "
                "command: what is done is kept"
            )
        return None

    def _outcome(self, number: int, future: Any) -> TaskResult:
        if future.status == "finished":
            outcome: TaskResult = future.result()
            return outcome
        row = self._rows[number]
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
        self._stop_file.stop()
        running = {n for n, row in self._rows.items() if row.state == states.RUNNING}
        waiting = [f for n, f in self._futures.items() if n not in running]
        self._client.cancel(waiting)
        self._futures = {n: f for n, f in self._futures.items() if n in running}
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while self._futures and time.monotonic() < deadline:
            ended = self.wait(lambda number, row: None)
            if ended is not None:
                yield ended

    def close(self) -> None:
        """See `Executor`."""
        with suppress(Exception):  # a scheduler that is gone has nothing left to release
            self._client.unsubscribe_topic(self._cohort)
            self._client.cancel(list(self._futures.values()))
        if self._own:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        self._stop_file.stop()


def _as_task(job: SlideTask, number: int, go_on: str) -> TaskResult:
    """Do a slide on a Dask worker."""
    from distributed import get_worker

    worker = get_worker()

    def tell(row: SlideStatus) -> None:
        worker.log_event(job.plan.cohort, (number, dataclasses.asdict(row)))

    if not os.path.exists(go_on):
        reason = (
            f"the worker {platform.node()} does not see {job.plan.out}; let every worker mount "
            "that folder, and the slides, under the same path"
        )
        return TaskResult(job.row(states.FAILED, reason=reason))
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
        return DaskExecutor(_connected(settings.dask), cohort, out)
    gpus = _gpus() if device in ("auto", "cuda") else []
    workers = min(settings.workers or _as_many_as_fit(gpus), slides)
    if workers <= 1 and not settings.apart:
        return InProcess(should_stop, should_pause)
    cluster = local_cluster(workers, gpus)
    client = _distributed().Client(cluster)
    return DaskExecutor(client, cohort, out, cluster, threads=_threads_each(workers))


@contextmanager
def dask_client(workers: int, scheduler: str | None, device: str) -> Iterator[Any]:
    """Yield a client of a running scheduler, or of workers on this machine.

    Parameters
    ----------
    workers
        On this machine; 0 takes as many as fit.
    scheduler
        Address or scheduler file, instead of workers on this machine.
    device
        That was asked for; GPUs are shared out only where it may be one.

    Raises
    ------
    CohortError
        When Dask is not installed, or the scheduler does not answer.
    """
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield client
        return
    distributed = _distributed()
    gpus = _gpus() if device in ("auto", "cuda") else []
    count = workers or _as_many_as_fit(gpus)
    with local_cluster(count, gpus) as cluster, distributed.Client(cluster) as client:
        yield client


def _threads_each(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise CohortError(
            f"several workers need Dask, which is not installed ({error}); run pip install "
            '"napari-2dmamba[cohort]", or use --workers 1'
        ) from error
    return distributed


def _connected(address: str) -> Any:
    distributed = _distributed()
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    if address.endswith(".json") and not Path(address).is_file():
        raise CohortError(f"the scheduler file {address} does not exist; start the scheduler first")
    try:
        return distributed.Client(**where, timeout=_SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise CohortError(
            f"no Dask scheduler answers at {address} "
            f"({str(error).partition(chr(10))[0] or type(error).__name__}); check the address "
            "that the scheduler printed, and that this machine may reach it"
        ) from error


def _gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names the GPUs of this process."""
    import torch

    named = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return named[:count] if named != [""] else [str(index) for index in range(count)]


def _as_many_as_fit(gpus: list[str]) -> int:
    import importlib.util

    import psutil

    if importlib.util.find_spec("distributed") is None:
        return 1
    if gpus:
        return len(gpus)
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    memory = psutil.virtual_memory().available / 1e9
    by_cores = (cores or os.cpu_count() or 1) // _CORES_PER_WORKER
    return max(1, min(by_cores, int(memory / _GB_PER_WORKER)))


def local_cluster(workers: int, gpus: list[str]) -> Any:
    """Return a Dask cluster of worker processes on this machine, one slide each at a time.

    Worker number *i* sees GPU *i* modulo their count; CPU cores are shared out evenly. Memory
    is not limited by Dask: reading and encoding bound it themselves.
    """
    import logging

    distributed = _distributed()
    import dask

    threads = str(_threads_each(workers))
    described = {}
    for index in range(workers):
        limited = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = dict.fromkeys(limited, threads)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        described[index] = {
            "cls": distributed.Nanny,
            "options": {
                "host": "127.0.0.1",
                "nthreads": 1,
                "memory_limit": 0,
                "env": environment,
                "dashboard": False,
                "silence_logs": logging.CRITICAL,
            },
        }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {
            "host": "127.0.0.1",
            "port": 0,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        },
    }
    # Else a worker that takes longer than 15 s to come back after a death is given up for good
    dask.config.set({"distributed.deploy.lost-worker-timeout": _LONGER_THAN_ANY_RESTART})
    with _interrupts_kept_from_children():
        return distributed.SpecCluster(
            workers=described, scheduler=scheduler, silence_logs=logging.CRITICAL, name="cohort"
        )


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; the workers are told to stop by us instead."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
