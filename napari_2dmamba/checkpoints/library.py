"""The user's list of checkpoints: where to look, what was taken off, and notes.

The list is one JSON file of this user. Nothing here touches the checkpoints themselves.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.checkpoints.summary import HUB_PREFIX
from napari_2dmamba.errors import CheckpointError

FOLDER_VARIABLE = "NAPARI_2DMAMBA_DATA"
"""Environment variable that puts the list elsewhere, such as in a folder a laboratory shares."""

_FORMAT = 1
_LOCK_SECONDS = 5.0
_HUB_NAME = re.compile(
    r"(?:hub:)?(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]+))?"
)


def default_folder() -> Path:
    """Return the folder of this user that holds the list."""
    from platformdirs import user_data_path

    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else user_data_path("napari-2dmamba", appauthor=False)


def source_of(given: str | Path) -> str:
    """Return what was given as a source of the list: an absolute path, or ``hub:owner/name``.

    What starts with ``hub:`` is a repository; anything else is a path.

    Raises
    ------
    CheckpointError
        When it starts with ``hub:`` and is no name of a repository.
    """
    text = str(given).strip()
    if text.startswith(HUB_PREFIX):
        return hub_source(text)
    return os.path.abspath(os.path.expanduser(text))


def hub_source(name: str) -> str:
    """Return a repository's name, with or without ``hub:``, as a source of the list.

    Raises
    ------
    CheckpointError
        When it is not like ``owner/name`` or ``owner/name@revision``.
    """
    found = _HUB_NAME.fullmatch(name.strip())
    if found is None or ".." in name or "--" in name:
        raise CheckpointError(
            f"{name.strip().removeprefix(HUB_PREFIX)!r} is no name of a Hugging Face repository; "
            "give it as owner/name, or owner/name@revision"
        )
    revision = found["revision"]
    return f"{HUB_PREFIX}{found['repo']}" + (f"@{revision}" if revision else "")


class CheckpointLibrary:
    """The list, read from its file and written back whole at every change.

    A second window may change the same file: every change starts from what is in it then.

    Parameters
    ----------
    folder
        Where ``checkpoints.json`` lies; that of this user by default.

    Attributes
    ----------
    remark
        A sentence when the file was damaged; it is then kept beside the new one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (default_folder() if folder is None else folder) / "checkpoints.json"
        self.remark = ""
        self._content = self._read()

    @property
    def sources(self) -> tuple[str, ...]:
        """Folders, files and repositories, in the order they were added."""
        return tuple(self._content["sources"])

    @property
    def removed(self) -> frozenset[str]:
        """Locations that were taken off the list."""
        return frozenset(self._content["removed"])

    def note(self, location: str) -> str:
        """Return the user's note on a checkpoint."""
        return str(self._content["notes"].get(location, ""))

    def add(self, given: str | Path) -> str:
        """Put a folder, a file or a repository on the list, and return it as a source.

        A checkpoint that was taken off comes back when it is added itself, or its source again.

        Raises
        ------
        CheckpointError
            For a bad name, or when the list cannot be written.
        """
        source = source_of(given)
        with self._changing() as content:
            if source not in content["sources"]:
                content["sources"].append(source)
            content["removed"] = [
                location for location in content["removed"] if not _is_below(location, source)
            ]
        return source

    def remove_source(self, source: str) -> None:
        """Take a folder, a file or a repository off the list; the disk is left alone."""
        with self._changing() as content:
            content["sources"] = [one for one in content["sources"] if one != source]

    def remove(self, *locations: str) -> None:
        """Take checkpoints off the list; the disk is left alone."""
        with self._changing() as content:
            content["sources"] = [one for one in content["sources"] if one not in locations]
            new = set(locations).difference(content["removed"])
            content["removed"] += sorted(new)

    def restore(self) -> None:
        """Put everything back that was taken off one by one."""
        with self._changing() as content:
            content["removed"] = []

    def set_note(self, location: str, note: str) -> None:
        """Keep a note on a checkpoint; an empty one forgets it."""
        note = note.strip()
        if note == self.note(location):
            return
        with self._changing() as content:
            if note:
                content["notes"][location] = note
            else:
                content["notes"].pop(location, None)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{self.path}.lock", timeout=_LOCK_SECONDS)
            lock.acquire()
        except (OSError, Timeout) as error:
            raise CheckpointError(
                f"the list of checkpoints {self.path} cannot be changed ({error}); close other "
                "windows that use it, or check that you may write there"
            ) from error
        try:
            content = self._read()
            yield content
            with atomic_write(self.path, CheckpointError) as temporary:
                temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
            self._content = content
        finally:
            lock.release()

    def _read(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"format": _FORMAT, "sources": [], "removed": [], "notes": {}}
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return empty
        except OSError as error:
            self.remark = (
                f"the list of checkpoints {self.path} cannot be read ({error.strerror}); an empty "
                "one is shown"
            )
            return empty
        try:
            return {**empty, **_checked(json.loads(text))}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._put_aside(error)
            return empty

    def _put_aside(self, error: Exception) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        aside = self.path.with_name(f"{self.path.stem}.damaged-{stamp}.json")
        try:
            os.replace(self.path, aside)
            kept = f"it was kept as {aside.name}, and a new list was begun"
        except OSError:
            kept = "it cannot be moved aside, so changes to the list will replace it"
        self.remark = f"the list of checkpoints {self.path} is damaged ({error}); {kept}"


def _checked(content: Any) -> dict[str, Any]:
    if content["format"] != _FORMAT:
        raise ValueError(f"it has format {content['format']!r}, and {_FORMAT} is read here")
    for name, kind in (("sources", list), ("removed", list), ("notes", dict)):
        if not isinstance(content[name], kind):
            raise TypeError(f"its {name} are no {kind.__name__}")
        values = list(content[name]) + (list(content[name].values()) if kind is dict else [])
        if not all(isinstance(value, str) for value in values):
            raise TypeError(f"its {name} hold something that is not text")
    return dict(content)


def _is_below(location: str, source: str) -> bool:
    """Whether a checkpoint is a source, or lies in it."""
    return location == source or location.startswith((source + "/", source + os.sep, source + ":"))
