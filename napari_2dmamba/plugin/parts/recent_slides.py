"""The slides that were opened last, in the settings folder of this user and nowhere else."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.plugin.session.preferences import settings_folder

MOST = 15
"""Slides that are remembered."""


def recent_file() -> Path:
    """Return the file that holds the list."""
    return settings_folder() / "recent-slides.json"


def recent_slides() -> list[Path]:
    """Return the slides that were opened last, the newest first; some may be gone by now."""
    try:
        known = json.loads(recent_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or somebody wrote into it
        return []
    if not isinstance(known, list):
        return []
    return [Path(one) for one in known if isinstance(one, str)][:MOST]


def remember(paths: Iterable[Path]) -> None:
    """Put slides at the head of the list, the last one first.

    Raises
    ------
    ExportError
        When the list cannot be written.
    """
    known = recent_slides()
    now = known
    for path in paths:
        path = Path(os.path.abspath(path))
        now = [path, *(one for one in now if one != path)]
    if now[:MOST] != known:
        _write(now[:MOST])


def forget(path: Path) -> None:
    """Take a slide off the list; its file stays where it is.

    Raises
    ------
    ExportError
        As `remember`.
    """
    _write([one for one in recent_slides() if one != path])


def _write(paths: list[Path]) -> None:
    with atomic_write(recent_file()) as part:
        part.write_text(json.dumps([str(one) for one in paths], indent=1), encoding="utf-8")
        part.chmod(0o600)  # names of slides may be names of patients
