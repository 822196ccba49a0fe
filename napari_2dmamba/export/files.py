"""Files are written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from napari_2dmamba.errors import ExportError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    Whatever ends the block early (an error, a cancelled job, a full disk) leaves an older file
    at ``path`` untouched and no temporary file behind. Missing folders are made.

    Raises
    ------
    ExportError
        When the file system refuses; says why and what to do.
    """
    path = Path(path)
    # the suffixes stay last: writers choose their format by them
    part = path.with_name(f".{secrets.token_hex(4)}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise ExportError(not_written(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def not_written(path: Path, error: OSError) -> str:
    """Say in one sentence that a file could not be written, why, and what helps."""
    reason = error.strerror or str(error) or type(error).__name__
    return (
        f"{path} cannot be written ({reason}); nothing was changed there: free some space or "
        "choose a folder you may write to"
    )
