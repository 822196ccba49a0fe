"""One long task at a time, with its progress and its cancel button in a footer."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_2dmamba.plugin.parts.jobs import Job, Task
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter


class OneJob(QObject):
    """Runs a task unless one runs already.

    Parameters
    ----------
    footer
        Shows progress and gets the cancel clicks.
    parent
        The widget; the job is cancelled when it goes.

    Signals
    -------
    failed(sentence)
        Also where a task was refused because one runs.
    started()
    finished()
        The job has ended, in whatever way.
    """

    failed = Signal(str)
    started = Signal()
    finished = Signal()

    def __init__(self, footer: ProgressFooter, parent: QObject) -> None:
        super().__init__(parent)
        self._footer = footer
        self._job: Job | None = None
        footer.cancel_clicked.connect(self.cancel)
        footer.pause_clicked.connect(self.pause)

    @property
    def is_busy(self) -> bool:
        """Whether a task runs."""
        return self._job is not None

    @property
    def job(self) -> Job | None:
        """What runs."""
        return self._job

    def start(
        self,
        task: Task,
        on_success: Callable[[Any], Any],
        if_cancelled: str,
        *,
        can_pause: bool = False,
    ) -> Job | None:
        """Run a task; its result goes to ``on_success``, in the thread of the GUI.

        Returns
        -------
        The job, or None where another one runs.
        """
        if self._job is not None:
            self.failed.emit("one thing at a time: wait, or cancel what runs")
            return None
        job = Job(task)
        job.progressed.connect(self._footer.show_progress)
        job.succeeded.connect(on_success)
        job.failed.connect(self.failed)
        job.cancelled.connect(lambda: self._footer.message.say(if_cancelled))
        job.held.connect(self._footer.set_held)
        job.finished.connect(self._on_finished)
        self.destroyed.connect(job.cancel)
        self._job = job
        self._footer.set_running(True, can_pause=can_pause)
        self.started.emit()
        job.start()
        return job

    def pause(self, is_wanted: bool) -> None:
        """Let the task wait at its next chance, or go on."""
        if self._job is not None:
            self._job.pause() if is_wanted else self._job.resume()

    def cancel(self) -> None:
        """Ask the task to stop."""
        if self._job is not None:
            self._footer.set_stopping()
            self._job.cancel()

    def _on_finished(self) -> None:
        self._job = None
        self._footer.set_running(False)
        self.finished.emit()
