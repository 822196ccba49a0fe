"""Take the places of files, and with them the names of people and machines, out of text.

What leaves this machine (exports, tables, logs to send) names files and not where they lie.
"""

import contextlib
import getpass
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PATH = re.compile(
    r"(?<![\w.:/\\~])"  # not the middle of a word, a web address or a relative path
    r"(?:file://|~[\w.-]*|[A-Za-z]:|\\)?"  # home, a Windows drive or share
    r"[/\\](?:[^/\\\s'\"<>|:;,()\[\]]+[/\\]+)+"
    r"(?P<name>[^/\\\s'\"<>|;,()\[\]]*)"
)
_SECRET = re.compile(
    r"(?i)\b(hf_[A-Za-z0-9]{8,}|(?:token|password|passwd|secret|api[_-]?key|authorization)"
    r"(?:['\"]?\s*[=:]\s*['\"]?(?:bearer\s+)?)[^\s'\",]+)"
)
_CREDENTIALS_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def file_names_only(text: str) -> str:
    """Return a text in which every absolute path is only the name of its file.

    Paths within known folders (home, temporary, current) are found with spaces in them as well.
    """
    if _is_path(text):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    for folder in _known_folders():
        text = text.replace(folder, "")
    return _PATH.sub(lambda found: found["name"] or "…", text)


def without_people_and_secrets(text: str) -> str:
    """Return a text for a log that is sent: no paths, user or host names, tokens or passwords."""
    text = _CREDENTIALS_IN_ADDRESS.sub("", _SECRET.sub("…", file_names_only(text)))
    for name, stands_for in ((_user(), "USER"), (_host(), "HOST")):
        if len(name) > 2:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", stands_for, text)
    return text


def names_in(value: Any) -> Any:
    """Return JSON in which every text went through `file_names_only`."""
    if isinstance(value, str):
        return file_names_only(value)
    if isinstance(value, Mapping):
        return {name: names_in(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [names_in(item) for item in value]
    return value


def _is_path(text: str) -> bool:
    """Return whether the whole text is one absolute path, spaces and all."""
    if "\n" in text or len(text) > 4096:
        return False
    return bool(re.match(r"(?:/|~[\w.-]*/|[A-Za-z]:[/\\]|\\\\)[^/\\]+(?:[/\\]|$)", text)) and not (
        re.search(r"[.;,:] ", text)
    )


def _known_folders() -> list[str]:
    """Return folders whose names tell of a person or a case, longest first, each with its slash."""
    folders = {tempfile.gettempdir(), os.path.expanduser("~")}
    with contextlib.suppress(OSError):  # deleted under us
        folders.add(os.getcwd())
    folders |= {os.path.realpath(folder) for folder in folders}
    told = [folder for folder in folders if len(Path(folder).parts) > 1]
    return sorted((folder + mark for folder in told for mark in "/\\"), key=len, reverse=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in this container
        return ""


def _host() -> str:
    import platform

    return platform.node()
