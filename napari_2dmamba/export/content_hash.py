"""Checksums by which files and features are known again."""

import hashlib
import os
from pathlib import Path

import numpy as np

from napari_2dmamba.errors import ExportError
from napari_2dmamba.features.bag import FeatureBag


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; of a store, that of the files in it with their names.

    Raises
    ------
    ExportError
        When it cannot be read.
    """
    if os.path.isdir(path):
        whole = hashlib.sha256()
        for part in sorted(one for one in Path(path).rglob("*") if one.is_file()):
            whole.update(f"{part.relative_to(path).as_posix()} {file_hash(part)}\n".encode())
        return whole.hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read for its checksum ({error.strerror}); put it back in place"
        ) from error


def features_hash(bag: FeatureBag) -> str:
    """Return the SHA-256 of features and coordinates, whatever file they came from."""
    digest = hashlib.sha256(f"{bag.features.shape}".encode())
    digest.update(np.ascontiguousarray(bag.features, dtype="<f4").data)
    digest.update(np.ascontiguousarray(bag.coords, dtype="<i8").data)
    return digest.hexdigest()
