"""Take the places of files, and with them the names of people and machines, out of text.

What leaves this machine (exports, tables, logs to send) names files and not where they lie.
"""

import contextlib
import getpass
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PATH = re.compile(
    r"(?<![\w./\\])"  # not the middle of a word, of a web address or of a relative path
    r"(?:file://|~[\w.-]*|[A-Za-z]:|\\)?"  # home, a Windows drive or share
    r"[/\\](?:[^/\\\s'\"<>|:;,()\[\]]+[/\\]+)+"
    r"(?P<name>[^/\\\s'\"<>|:;,()\[\]]*)"
)
_ONE_PATH = re.compile(r"(?:/|~[\w.-]*/|[A-Za-z]:[/\\]|\\\\)[^/\\]+(?:[/\\]|$)")
_ENDINGS = (
    r"\.(?:svs|ndpi|mrxs|tiff?|scn|vms|bif|svslide|czi|dcm|zarr|ozx|h5|hdf5|pth?|ckpt|safetensors|parquet"
    r"|geojson|csv|json|png|log)"
)
_FILE_NAME = re.compile(rf"(?P<name>[^\s/\\'\"<>|:;,()\[\]]+{_ENDINGS})\b", re.IGNORECASE)
_BEGINNING = re.compile(rf"[^\n]*?{_ENDINGS}(?=\s)", re.IGNORECASE)
"""A text up to its first file name, after which it goes on."""
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}"
    r"|\b(?:token|password|passwd|secret|api[_-]?key|authorization)['\"]?\s*[=:]\s*['\"]?"
    r"(?:bearer\s+)?[^\s'\",]+",
    re.IGNORECASE,
)
_QUERY_OF_ADDRESS = re.compile(r"((?:https?|s3)://[^\s?'\"<>]+)\?[^\s'\"<>]*", re.IGNORECASE)
"""What follows the question mark: signed addresses hold their secret there."""
_CREDENTIALS_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def file_names_only(text: str, *folders: str | os.PathLike[str]) -> str:
    """Return a text in which every absolute path is only the name of its file.

    A path with spaces is found where it is the whole text, where a text begins with it and its
    file has a known ending, or where it lies in one of the ``folders``.
    """
    for folder in sorted((os.fspath(one) for one in folders), key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(folder + os.sep, "/./")  # what follows is a path for the pattern
    begins = _BEGINNING.match(text)
    if begins and _is_path(begins[0]):
        return _last_part(begins[0]) + file_names_only(text[begins.end() :])
    if _is_path(text):
        return _last_part(text)
    for folder in _known_folders():
        text = text.replace(folder, "/./")
    return _PATH.sub(lambda found: found["name"] or "…", text)


def names_in(value: Any) -> Any:
    """Return JSON in which every text went through `file_names_only`."""
    if isinstance(value, str):
        return file_names_only(value)
    if isinstance(value, Mapping):
        return {name: names_in(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [names_in(item) for item in value]
    return value


def without_people_and_secrets(text: str) -> str:
    """Return a text for a log that is sent: no names of files, people or machines, no secrets."""
    text = _QUERY_OF_ADDRESS.sub(r"\1?SECRET", _SECRET.sub("SECRET", text))
    text = _CREDENTIALS_IN_ADDRESS.sub("", text)
    for folder in _known_folders():
        text = text.replace(folder, "/./")
    text = _FILE_NAME.sub(_kind_of_file, _PATH.sub(_kind_of_file, text))
    for name, stands_for in ((_user(), "USER"), (platform.node(), "HOST")):
        if len(name) > 2:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", stands_for, text)
    return text


def _kind_of_file(found: re.Match[str]) -> str:
    """Return the ending of a file's name: a slide is often called after its patient."""
    return "FILE" + os.path.splitext(found["name"])[1]


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _is_path(text: str) -> bool:
    """Return whether the whole text is one absolute path, spaces and all."""
    if len(text) > 4096 or re.search(r"\n|[.;,:] ", text):
        return False
    return _ONE_PATH.match(text) is not None


def _known_folders() -> list[str]:
    """Return folders whose names tell of a person or a case, longest first, each with a slash."""
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
