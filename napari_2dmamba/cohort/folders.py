"""One folder per slide: whose it is, and who works in it now."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from napari_2dmamba.atomic_files import sweep
from napari_2dmamba.cohort.status import (
    DONE,
    STOPPED,
    SUPERSEDED,
    SlideStatus,
    read_status,
    write_status,
)
from napari_2dmamba.errors import CohortError

_LOCK_FILE = ".lock"
_NAMING_LOCK = ".naming.lock"
_NAMING_SECONDS = 120


class WorkedOnElsewhere(Exception):
    """Another run, or another worker, works on this slide now."""


def claim(out: Path, row: SlideStatus, identity: str, *, alone: bool) -> Path:
    """Return the slide's folder in `out`, made and marked as this slide's.

    It is called as the slide, or, where another slide of that name has the folder already,
    ``<name>-<first digits of the identity>``. A slide keeps its folder, until its file is
    replaced by another of the same name in the same place: then the folder of the former gets
    digits, and its status says that it is superseded. Of two files with one name and one content,
    each has its own.

    Parameters
    ----------
    out
        The cohort's folder.
    row
        The slide; its path recognises one that did not open before.
    identity
        Hash of the slide's content, or of its path when it does not open.
    alone
        False when another slide of this cohort has the same name, so that neither takes it.

    Raises
    ------
    CohortError
        When nothing can be written there.
    """
    stem = Path(row.slide).stem
    plain, long = out / stem, out / f"{stem}-{identity[:8]}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _NAMING_LOCK, timeout=_NAMING_SECONDS):
            is_free = alone and _is_replaced(plain, row) and _moved_aside(plain)
            if is_free and long.is_dir() and _belongs(long, row):
                long.rename(plain)
                _take_up_again(plain)
            twin = out / f"{long.name}-{_hash_of_place(row)}"
            for folder in (plain, long, twin):
                if _belongs(folder, row) and (alone or not _is_of_a_twin(folder, row)):
                    return folder
            # A folder that somebody else made, such as the data beside a MIRAX file, is no
            # place for results; one without anything was left by a kill in the lines below
            folder = plain if alone and _is_free(plain) else long
            if not alone and _is_of_a_twin(long, row):
                folder = twin
            folder.mkdir(exist_ok=True)
            write_status(dataclasses.replace(row, folder=str(folder)))
            return folder
    except Timeout:
        raise CohortError(
            f"the names in {out} have been locked for {_NAMING_SECONDS} s; if no other run is "
            f"at work there, delete {_NAMING_LOCK} in it"
        ) from None
    except OSError as error:
        raise CohortError(
            f"{out} cannot be written ({error.strerror}); choose another folder for the results"
        ) from error


def _is_free(folder: Path) -> bool:
    if not folder.is_dir():
        return not folder.exists()
    sweep(folder)
    try:
        return not any(folder.iterdir())
    except PermissionError:
        return False


def _belongs(folder: Path, row: SlideStatus) -> bool:
    held = read_status(folder)
    if held is None:
        return _run_of(folder) == row.fingerprint != ""
    if held.fingerprint and row.fingerprint:
        return held.fingerprint == row.fingerprint
    return held.slide == _place(row)  # one of the two does not open


def _is_of_a_twin(folder: Path, row: SlideStatus) -> bool:
    """Return whether a folder is of another file of the same content, which is still there."""
    held = read_status(folder)
    return held is not None and held.slide != _place(row) and os.path.exists(held.slide)


def _place(row: SlideStatus) -> str:
    return os.path.normpath(os.path.abspath(row.slide))


def _hash_of_place(row: SlideStatus) -> str:
    return hashlib.sha256(os.fsencode(_place(row))).hexdigest()[:8]


def _is_replaced(folder: Path, row: SlideStatus) -> bool:
    """Return whether a folder is of an earlier content of the same slide file."""
    held = read_status(folder)
    return (
        held is not None
        and held.slide == _place(row)
        and bool(held.fingerprint and row.fingerprint)
        and held.fingerprint != row.fingerprint
    )


def _moved_aside(folder: Path) -> bool:
    """Give the folder of a former content another name and mark it; False while it is at work."""
    held = read_status(folder)
    assert held is not None
    aside = folder.with_name(f"{folder.name}-{held.fingerprint[:8]}")
    if aside.exists() or is_locked(folder):
        return False
    write_status(dataclasses.replace(held, state=SUPERSEDED))  # first, lest a kill leave it done
    folder.rename(aside)
    return True


def _take_up_again(folder: Path) -> None:
    """Give a folder that has the plain name again its former standing."""
    held = read_status(folder)
    assert held is not None
    if held.state == SUPERSEDED:
        write_status(dataclasses.replace(held, state=DONE if held.key else STOPPED))


def _run_of(folder: Path) -> str | None:
    """Return the fingerprint of a run saved here without a cohort."""
    from napari_2dmamba.errors import ExportError
    from napari_2dmamba.export.record import read_record
    from napari_2dmamba.export.run_folder import RECORD_FILE

    try:
        return read_record(folder / RECORD_FILE).slide.fingerprint
    except ExportError:
        return None


@contextlib.contextmanager
def worked_on(folder: Path) -> Iterator[None]:
    """Keep every other run out of a slide's folder.

    The system drops the lock when its holder dies, so a killed worker bars nobody; where a
    file system knows no locks, `filelock` marks the holder in the file and looks whether it
    still lives.

    Raises
    ------
    WorkedOnElsewhere
        When another holds it.
    CohortError
        When nothing can be written there.
    """
    lock = FileLock(folder / _LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise WorkedOnElsewhere from None
    except OSError as error:
        raise CohortError(
            f"{folder} cannot be written ({error.strerror}); choose another folder for the results"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether somebody works in a slide's folder now."""
    if not os.access(folder, os.W_OK):
        return False
    try:
        with worked_on(folder):
            return False
    except WorkedOnElsewhere:
        return True


def forget(folder: Path) -> None:
    """Delete the kept features of a slide, finished or not, and its result's claim to be done."""
    for pattern in ("features-*.h5", "features-*.journal", "features.h5"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
