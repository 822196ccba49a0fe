"""What a training tells the window, and how long it will take."""

import time

from qtpy.QtCore import QObject, Signal

from napari_2dmamba.settings import ProgressCallback


class Epochs(QObject):
    """Carries epochs from the thread of the training to that of the window.

    Signals
    -------
    came(model, epoch)
    """

    came = Signal(str, object)


class WithTimeLeft:
    """Adds the time left to the progress of a training.

    It follows from the epochs done since the start, and is at most right: a model may stop
    early. Pauses stop the clock.

    Parameters
    ----------
    tell
        Gets progress and words.
    """

    def __init__(self, tell: ProgressCallback) -> None:
        self._tell = tell
        self._began = time.monotonic()
        self._first: int | None = None

    def wait_for(self, seconds: float) -> None:
        """Leave a pause out."""
        self._began += seconds

    def __call__(self, done: int, total: int, message: str) -> None:
        """Tell how far it is."""
        in_epochs = "epoch" in message
        if in_epochs and self._first is None:
            self._first, self._began = done, time.monotonic()
        since = 0 if self._first is None else done - self._first
        if in_epochs and since > 0:
            left = (time.monotonic() - self._began) * (total - done) / since
            message = f"{message} · at most {in_words(left)} left"
        self._tell(done, total, message)


def in_words(seconds: float) -> str:
    """Return a duration to read while it passes: ``8 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
