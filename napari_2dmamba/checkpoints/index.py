"""Find checkpoints in folders and read their headers, as far as not known from last time."""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.checkpoints.library import default_folder
from napari_2dmamba.checkpoints.summary import (
    HUB_PREFIX,
    SUFFIXES,
    CheckpointSummary,
    summarise,
)
from napari_2dmamba.errors import Cancelled, CheckpointError, UserError
from napari_2dmamba.settings import ProgressCallback, StopCallback

_MOST_KEPT = 50_000
_LAYOUT = 1  # of what is kept


class SummaryCache:
    """Summaries of files read before, which hold while a file's date and size do.

    Parameters
    ----------
    path
        The file that keeps them; None keeps them in memory only. A damaged one is begun anew:
        everything in it can be read again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._made_by = _made_by()
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if path is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                content = json.loads(path.read_bytes())
                if content["made_by"] == self._made_by:
                    self._known = dict(content["known"])

    def get(self, location: str, state: str) -> CheckpointSummary | None:
        """Return the summary of a file in the ``state`` it was read in, or None."""
        entry = self._known.get(location)
        try:
            if entry is not None and entry[0] == state:
                return CheckpointSummary.from_dict(entry[1])
        except (KeyError, TypeError, IndexError):
            del self._known[location]
        return None

    def put(self, state: str, summary: CheckpointSummary) -> None:
        """Keep a summary."""
        self._known.pop(summary.location, None)
        self._known[summary.location] = [state, summary.to_dict()]
        self._changed = True

    def save(self) -> None:
        """Write what is kept; where that fails, files are read again next time."""
        if self._path is None or not self._changed:
            return
        newest = dict(list(self._known.items())[-_MOST_KEPT:])
        with contextlib.suppress(UserError, RecursionError):
            text = json.dumps({"made_by": self._made_by, "known": newest})
            with atomic_write(self._path) as temporary:
                temporary.write_text(text, "utf-8")
            self._changed = False


def default_cache() -> Path:
    """Return the file of this user that keeps summaries, beside the list."""
    return default_folder() / "checkpoint-summaries.json"


def index(
    sources: Sequence[str],
    *,
    removed: Collection[str] = (),
    cache: SummaryCache | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Iterator[CheckpointSummary]:
    """Yield a summary of every checkpoint in folders, files and repositories, each once.

    Parameters
    ----------
    sources
        Absolute paths, or ``hub:owner/name@revision``: see `library.source_of`. Of a folder all
        files below it that `summary.SUFFIXES` names.
    removed
        Locations to leave out.
    cache
        Summaries known from last time; it is saved at the end, also of a stopped search.
    on_progress, should_stop
        See `settings`.

    Yields
    ------
    A source that is not there, or cannot be read, yields a summary of itself with the problem.

    Raises
    ------
    Cancelled
        When ``should_stop()`` said so.
    """
    cache = SummaryCache() if cache is None else cache
    say = on_progress or (lambda done, total, message: None)

    def stop_if_asked() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled

    seen: set[str] = set(removed)
    try:
        wanted: list[tuple[str, Callable[[], Iterator[CheckpointSummary]]]] = []
        for source in sources:
            if source.startswith(HUB_PREFIX):
                wanted.append((source, partial(_of_hub, source, cache, seen)))
                continue
            say(0, 0, f"looking into {source}")
            try:
                for path in _files_of(source, stop_if_asked):
                    if path not in seen:
                        seen.add(path)
                        wanted.append((path, partial(_of_file, path, cache)))
            except CheckpointError as error:
                yield CheckpointSummary(source, problem=str(error))
        for done, (name, read) in enumerate(wanted):
            stop_if_asked()
            say(done, len(wanted), f"reading {Path(name).name}")
            yield from read()
        say(len(wanted), len(wanted), "")
    finally:
        cache.save()


def _files_of(source: str, stop_if_asked: Callable[[], None]) -> Iterator[str]:
    """Yield the files of a source that may be checkpoints, folders in the order of their names.

    Raises
    ------
    CheckpointError
        When the source is not there or cannot be read.
    """
    if os.path.isfile(source):
        yield source
        return
    try:
        entries = list(os.scandir(source))
    except OSError as error:
        raise CheckpointError(
            f"{source} cannot be read: {error.strerror or error}; connect the drive it lies on, "
            "or remove it from the list"
        ) from error
    visited = {_identity(source)}
    folders = [entries]
    while folders:
        stop_if_asked()
        below = []
        for entry in sorted(folders.pop(0), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError):  # a folder inside that is closed to this user
                if entry.is_dir():
                    identity = _identity(entry.path)
                    if identity not in visited:  # links may lead round in a circle
                        visited.add(identity)
                        below.append(list(os.scandir(entry.path)))
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    yield entry.path
        folders = below + folders


def _identity(folder: str) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _of_file(path: str, cache: SummaryCache) -> Iterator[CheckpointSummary]:
    try:
        stat = os.stat(path)
        state = f"{stat.st_mtime_ns}-{stat.st_size}"
    except OSError:
        state = ""
    summary = cache.get(path, state) if state else None
    if summary is None:
        summary = summarise(Path(path))
        if state:
            cache.put(state, summary)
    yield summary


def _of_hub(source: str, cache: SummaryCache, seen: set[str]) -> Iterator[CheckpointSummary]:
    from napari_2dmamba.checkpoints.hub import index_repository

    for summary in index_repository(source, cache):
        if summary.location not in seen:
            seen.add(summary.location)
            yield summary


def _made_by() -> str:
    """Return what decides how files are read: this version, and architectures from elsewhere."""
    from napari_2dmamba.models import ENTRY_POINTS

    others = sorted(f"{entry.name}={entry.value}" for entry in entry_points(group=ENTRY_POINTS))
    return " ".join([__version__, str(_LAYOUT), *others])
