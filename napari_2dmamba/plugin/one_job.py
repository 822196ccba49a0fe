"""One long task at a time, with its progress and its cancel button in a footer."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_2dmamba.plugin.jobs import Job, Task
from napari_2dmamba.plugin.run_widget.progress_footer import ProgressFooter


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
    """

    failed = Signal(str)

    def __init__(self, footer: ProgressFooter, parent: QObject) -> None:
        super().__init__(parent)
        self._footer = footer
        self._job: Job | None = None
        footer.cancel_clicked.connect(self.cancel)

    @property
    def is_busy(self) -> bool:
        """Whether a task runs."""
        return self._job is not None

    def start(self, task: Task, on_success: Callable[[Any], Any], if_cancelled: str) -> None:
        """Run a task; its result goes to ``on_success``, in the thread of the GUI."""
        if self._job is not None:
            self.failed.emit("one thing at a time: wait, or cancel what runs")
            return
        job = Job(task)
        job.progressed.connect(self._footer.show_progress)
        job.succeeded.connect(on_success)
        job.failed.connect(self.failed)
        job.cancelled.connect(lambda: self._footer.message.say(if_cancelled))
        job.finished.connect(self._on_finished)
        self.destroyed.connect(job.cancel)
        self._job = job
        self._footer.set_running(True)
        job.start()

    def cancel(self) -> None:
        """Ask the task to stop."""
        if self._job is not None:
            self._footer.set_stopping()
            self._job.cancel()

    def _on_finished(self) -> None:
        self._job = None
        self._footer.set_running(False)
