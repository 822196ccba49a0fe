"""Crashes in compiled code, which no ``except`` sees: a log, and a sentence at the next start.

While a command runs, Python's `faulthandler` holds a file open beside the logs of `last_net`. A
crash writes the Python stack into it; an ordinary end deletes it. The next start finds what a
crash left, takes names of files and people out, and says where the log is.
"""

import contextlib
import faulthandler
import functools
import os
import re
from collections.abc import Iterator
from typing import TextIO

import psutil

from napari_2dmamba.last_net import keep_newest, log_folder, this_program
from napari_2dmamba.redaction import without_people_and_secrets

_FRAME = re.compile(r'File "(?P<path>[^"\n]*)"')
_MODULE = re.compile(
    r".*(?:[/\\](?:site-packages|python3\.\d+|Lib)[/\\]|[/\\](?=napari_2dmamba[/\\]))(?P<name>.+)\.py$"
)


@contextlib.contextmanager
def crashes_logged() -> Iterator[None]:
    """Write a log if the process crashes meanwhile.

    Does nothing where `faulthandler` is on already (its owner wants the stack elsewhere) or the
    folder of logs cannot be written.
    """
    file = None if faulthandler.is_enabled() else _opened()
    if file is None:
        yield
        return
    faulthandler.enable(file)
    try:
        yield
    finally:
        faulthandler.disable()
        file.close()
        with contextlib.suppress(OSError):
            os.unlink(file.name)


@functools.cache
def sentence_for_last_crash() -> str:
    """Return what to tell of crashes since the last start, or nothing.

    The first call of a process makes the log; later ones say the same, so that terminal and
    window can both tell.
    """
    logs = []
    # what nobody can read, or somebody else put there, is no reason to fail
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        for path in sorted(log_folder().glob("crash-*.txt")):
            if psutil.pid_exists(int(path.stem.rpartition("-")[2])):
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                log = path.with_name(f"error-{path.stem}.log")
                log.write_text(f"{this_program()}\n\n{_without_places(text)}", encoding="utf-8")
                logs.append(log)
            path.unlink()
        keep_newest()
    if not logs:
        return ""
    return (
        f"the program crashed when it ran last; what was finished is kept. Please send {logs[-1]} "
        "with a report: it names no files, people or secrets"
    )


def _opened() -> TextIO | None:
    try:
        folder = log_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / f"crash-{os.getpid()}.txt").open("w", encoding="utf-8")
    except (OSError, RuntimeError):  # a full disk, or no home folder
        return None


def _without_places(text: str) -> str:
    """Return a stack that names modules, and no folders in which they lie."""

    def module(found: re.Match[str]) -> str:
        name = _MODULE.search(found["path"])
        return re.sub(r"[/\\]", ".", name["name"]) if name else "a module elsewhere"

    return without_people_and_secrets(_FRAME.sub(module, text))
