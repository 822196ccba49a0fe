"""The log of one slide of a cohort, in the slide's own folder."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from napari_2dmamba.redaction import file_names_only

LOG_FILE = "log.txt"

log = logging.getLogger(__name__)
"""The slides' own logs: what it says goes there and nowhere else."""
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(logging.NullHandler())


class _NamesOnly(logging.Formatter):
    """Lines that name files and not where they lie: logs are shared."""

    def format(self, record: logging.LogRecord) -> str:
        return file_names_only(super().format(record))


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Append what the package logs meanwhile to the slide's log; a full disk stops nothing."""
    try:
        handler = logging.FileHandler(folder / LOG_FILE, encoding="utf-8")
    except OSError:
        yield
        return
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.setFormatter(_NamesOnly("%(asctime)s %(levelname)s %(message)s"))
    loggers = (log, logging.getLogger("napari_2dmamba"))
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk did not take goes at the end
            handler.close()
