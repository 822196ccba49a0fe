"""What a features file or store holds, told by its bytes: to find copies and other versions."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from napari_2dmamba.features.stores import table_in_store

_SAMPLES, _SAMPLE = 8, 2**13
"""Pieces of a file that stand for it, and the bytes of each."""


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a store that features are read from."""
    return sum(file.stat().st_size for _, file in _files(path))


def digest_of(path: Path) -> str:
    """Return a hash of all that features are read from."""
    whole = hashlib.sha256()
    for name, file in _files(path):
        with file.open("rb") as opened:
            whole.update(name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def sampled_digest_of(path: Path) -> str:
    """Return a hash of `_SAMPLES` pieces of each file.

    Gigabytes are not read, and features that were computed otherwise differ everywhere.
    """
    pieces = hashlib.sha256()
    for name, file in _files(path):
        size = file.stat().st_size
        pieces.update(name.encode())
        with file.open("rb") as opened:
            for place in np.linspace(0, max(0, size - _SAMPLE), _SAMPLES).astype(int):
                opened.seek(int(place))
                pieces.update(opened.read(_SAMPLE))
    return pieces.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield files with their names in the store; a file by itself has no name.

    Of a store with tables those, or the one that is meant, and the shapes that tell where patches
    lie: pictures and other things may be added to it.
    """
    if not path.is_dir():
        yield "", path
        return
    store, table = table_in_store(path)
    folders = [store / "tables" if table is None else path, store / "shapes"]
    if not folders[0].is_dir():
        folders = [store]
    for folder in folders:
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            yield file.relative_to(folder).as_posix(), file
