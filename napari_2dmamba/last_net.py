"""The last net: what nobody foresaw becomes one sentence and a log file, never a traceback.

Command line and widgets use the same one. The log tells where in the program something went
wrong, and names no file, person, machine or secret, so that it can be sent.
"""

import contextlib
import os
import platform
import secrets
import traceback
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from napari_2dmamba import __version__
from napari_2dmamba.redaction import without_people_and_secrets

_KEPT_LOGS = 20
_PACKAGES = (
    "torch",
    "numpy",
    "tifffile",
    "h5py",
    "shapely",
    "napari",
    "PyQt6",
    "PySide6-Essentials",
)


def sentence_for(error: BaseException, doing: str = "") -> str:
    """Write a log of an unexpected error, and return the sentence to show for it.

    Parameters
    ----------
    doing
        What the user asked for, in a word or two: ``"run"``.
    """
    what = f"{doing} " if doing else ""
    if isinstance(error, MemoryError):
        reason = "the memory of this machine is full; close other programs or use smaller settings"
    else:
        reason = f"it is an error in the program ({type(error).__name__})"
    path = _written(_text_of(error, doing))
    if path is None:
        return f"{what}failed: {reason}; no log could be written"
    return (
        f"{what}failed: {reason}; what was finished is kept. Please send {path} with a report: "
        "it names no files, people or secrets"
    )


def log_folder() -> Path:
    """Return the folder of the logs."""
    from platformdirs import user_log_path

    return user_log_path("napari-2dmamba", appauthor=False)


def this_program() -> str:
    """Return the lines that every log begins with: versions and the time."""
    return "\n".join(
        [
            f"napari-2dmamba {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            f"Python {platform.python_version()} on {platform.system()} {platform.release()} "
            f"{platform.machine()}",
            ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        ]
    )


def keep_newest() -> None:
    """Delete all logs but the newest."""
    logs = sorted(log_folder().glob("error-*.log"), key=lambda log: log.stat().st_mtime)
    for old in logs[:-_KEPT_LOGS]:
        with contextlib.suppress(OSError):
            os.unlink(old)


def _text_of(error: BaseException, doing: str) -> str:
    lines = [
        this_program(),
        f"command or widget: {without_people_and_secrets(doing) or 'not told'}",
        "",
    ]
    for one in _chain(error):
        lines.append(f"{type(one).__name__}: {without_people_and_secrets(str(one))[:2000]}")
        for frame, number in traceback.walk_tb(one.__traceback__):
            module = frame.f_globals.get("__name__", "?")
            lines.append(f"  {module}, line {number}, in {frame.f_code.co_name}")
        lines.append("")
    return "\n".join(lines)


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and what it came from, the first cause last."""
    found: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in found and len(found) < 10:
        found.append(now)
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _written(text: str) -> Path | None:
    """Write the log, delete all but the newest, and return its path; None where it cannot be."""
    try:
        folder = log_folder()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"error-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}.log"
        path = folder / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        keep_newest()
    except (OSError, RuntimeError):  # a full disk, or no home folder
        return None
    return path
