"""The one way to run core functions off the GUI thread.

A core function reports ``on_progress(done, total, message)`` and polls ``should_stop()``;
a `Job` turns these into Qt signals, which arrive in the thread that made the job.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QCoreApplication, QObject, QTimer, Signal

from napari_2dmamba.errors import Cancelled, UserError
from napari_2dmamba.last_net import sentence_for
from napari_2dmamba.settings import ProgressCallback, StopCallback

Task = Callable[[ProgressCallback, StopCallback], Any]
"""What a job runs: ``task(on_progress, should_stop)``."""

SIGNALS_PER_SECOND = 10

_running: set["Job"] = set()


class Job(QObject):
    """A task in a thread of its own.

    Signals
    -------
    progressed(done, total, message)
        At most `SIGNALS_PER_SECOND` times a second, besides the start and end of a stage.
    succeeded(result)
    failed(sentence)
        What the user is told; of unforeseen errors it names a log file, see `last_net`.
    cancelled()
    held()
        The task waits at a pause that was asked for.
    finished()
        After one of the three above.
    """

    progressed = Signal(int, int, str)
    succeeded = Signal(object)
    failed = Signal(str)
    cancelled = Signal()
    held = Signal()
    finished = Signal()
    _ended = Signal(object)

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self._stop = threading.Event()
        self._go_on = threading.Event()
        self._go_on.set()
        self._thread = threading.Thread(target=self._run, name="napari-2dmamba job", daemon=True)
        self._last_signal = 0.0
        self._ended.connect(self._deliver)

    @property
    def is_running(self) -> bool:
        """Whether the job was started and its end not yet delivered."""
        return self in _running

    def start(self) -> None:
        """Start the thread."""
        _running.add(self)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.stop_and_wait)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the task to stop at its next chance; returns at once."""
        self._stop.set()
        self._go_on.set()

    def pause(self) -> None:
        """Let the task wait at its next chance; returns at once."""
        self._go_on.clear()

    def resume(self) -> None:
        """Let a task that waits go on."""
        self._go_on.set()

    @property
    def is_paused(self) -> bool:
        """Whether the task waits, or will at its next chance."""
        return not self._go_on.is_set()

    def stop_and_wait(self, seconds: float = 10.0) -> None:
        """Cancel and wait for the thread, for when the application closes."""
        self.cancel()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            end: tuple[str, Any] = "succeeded", self._task(self._on_progress, self._should_stop)
        except Cancelled:
            end = "cancelled", None
        except UserError as error:
            end = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - the last net
            end = "failed", sentence_for(error, "this step")
        self._ended.emit(end)

    def _should_stop(self) -> bool:
        if not self._go_on.is_set():
            self.held.emit()
            self._go_on.wait()
        return self._stop.is_set()

    def _on_progress(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        counts = 0 < done < total  # anything else is the start or the end of a stage
        if not counts or now - self._last_signal >= 1 / SIGNALS_PER_SECOND:
            self._last_signal = now
            self.progressed.emit(done, total, message)

    def _deliver(self, end: tuple[str, Any]) -> None:
        # Runs in the thread of the GUI. A cancelled job whose last step still succeeded counts
        # as cancelled: the user has been told that it stops.
        _running.discard(self)
        outcome, value = end
        if outcome == "failed":
            self.failed.emit(value)
        elif outcome == "cancelled" or self._stop.is_set():
            self.cancelled.emit()
        else:
            self.succeeded.emit(value)
        self.finished.emit()


class LatestJob(QObject):
    """Runs only the newest of many requests, after the user has paused.

    For previews that follow a slider: a request waits ``delay_ms``; a newer one replaces it,
    and stops one that is already running. `finished` is emitted when nothing waits or runs.
    """

    started = Signal()
    progressed = Signal(int, int, str)
    succeeded = Signal(object)
    failed = Signal(str)
    finished = Signal()

    def __init__(self, parent: QObject | None = None, delay_ms: int = 250) -> None:
        super().__init__(parent)
        self._task: Task | None = None
        self._job: Job | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(delay_ms)
        self._timer.timeout.connect(self._start)

    @property
    def is_busy(self) -> bool:
        """Whether a request waits or runs."""
        return self._task is not None or self._job is not None

    def request(self, task: Task) -> None:
        """Run ``task`` soon, in place of all earlier requests."""
        self._task = task
        if self._job is not None:
            self._job.cancel()
        self._timer.start()

    def cancel(self) -> None:
        """Forget what waits and stop what runs."""
        self._task = None
        self._timer.stop()
        if self._job is not None:
            self._job.cancel()

    def _start(self) -> None:
        if self._job is not None or self._task is None:
            return  # the running job starts the next one when it ends
        task, self._task = self._task, None
        self._job = Job(task)
        self._job.progressed.connect(self.progressed)
        self._job.succeeded.connect(self.succeeded)
        self._job.failed.connect(self.failed)
        self._job.finished.connect(self._on_finished)
        self.started.emit()
        self._job.start()

    def _on_finished(self) -> None:
        self._job = None
        if self._task is None:
            self.finished.emit()
        elif not self._timer.isActive():
            self._start()


def wait_for_jobs(seconds: float = 10.0) -> None:
    """Stop and wait for every running job, for when the application closes."""
    for job in list(_running):
        job.stop_and_wait(seconds)
        _running.discard(job)
