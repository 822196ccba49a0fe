"""A file through which workers on any machine learn whether to go on, to wait, or to stop."""

import itertools
import time
from pathlib import Path

from napari_2dmamba.errors import CohortError

_HELD = "held"
_SECONDS_BETWEEN_SIGNS = 5.0
_SECONDS_WITHOUT_SIGN = 60.0
_SECONDS_BETWEEN_LOOKS = 0.25
_A_MOMENT = 0.2


class StopFile:
    """The runner's side: workers go on while the file is there and does not say otherwise.

    Parameters
    ----------
    path
        The file, seen by every worker.

    Raises
    ------
    CohortError
        Here and in `hold`, when the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = False
        self._next_sign = 0.0
        self._signs = itertools.count()
        self._write("")

    def hold(self, is_held: bool) -> None:
        """Make workers wait between batches, or go on; to be called every few seconds."""
        now = time.monotonic()
        if is_held and now >= self._next_sign:
            # A new number each time: workers do not wait for a runner that is gone
            self._write(f"{_HELD} {next(self._signs)}")
            self._next_sign = now + _SECONDS_BETWEEN_SIGNS
        elif self._held and not is_held:
            self._write("")
            self._next_sign = 0.0
        self._held = is_held

    def stop(self) -> None:
        """Stop the workers."""
        self.path.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        try:
            self.path.write_text(text, encoding="ascii")
        except OSError as error:
            raise CohortError(
                f"{self.path.parent} cannot be written ({error.strerror}); make room, or choose "
                "another folder for the results"
            ) from error


class StopFileReader:
    """The worker's side of a `StopFile`.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = float("-inf")
        self._should_stop = False

    def should_stop(self) -> bool:
        """Return whether to stop, after waiting for as long as the runner holds it."""
        if self._should_stop or time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return self._should_stop
        sign, seen = self._sign(), time.monotonic()
        while sign is not None and sign.startswith(_HELD):
            time.sleep(_A_MOMENT)
            before, sign = sign, self._sign()
            if sign != before:
                seen = time.monotonic()
            elif time.monotonic() - seen > _SECONDS_WITHOUT_SIGN:
                break
        self._looked, self._should_stop = time.monotonic(), sign is None
        return self._should_stop

    def _sign(self) -> str | None:
        try:
            return self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        except OSError:  # a file system that is away for a moment stops nobody
            return ""
