"""Features on their way to a file: appended batch by batch, so that a killed job goes on."""

import contextlib
import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError

_MAGIC = b"2dmamba features in the making\n"
_RECORD = struct.Struct("<QIII")  # first patch, patches, payload bytes, checksum


class Journal:
    """An append-only file of finished batches, locked against a second writer.

    A record that was cut short by a kill, or damaged, ends what is taken over: it and all
    after it are dropped and computed again.

    Parameters
    ----------
    path
        File to go on with, or to begin.
    header
        What the features are of; a file with another header is begun anew.
    feature_size
        D.
    batch_size
        Called for the size of the batches where a file is begun; one that goes on keeps its own,
        because batches must be the same.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        feature_size: int,
        batch_size: Callable[[], int],
    ) -> None:
        self.path, self.feature_size = path, feature_size
        self.features: list[NDArray[np.float32]] = []
        self.verdicts: list[NDArray[np.uint8]] = []
        self.done = 0
        try:
            self._file: io.BufferedRandom = path.open("r+b" if path.exists() else "w+b")
        except OSError as error:
            raise FeatureError(f"{path} cannot be written: {error.strerror}") from error
        try:
            _lock(self._file, path)
            self.batch_size = self._take_over(header, batch_size)
        except OSError as error:
            self._file.close()
            raise FeatureError(
                f"{path} cannot be written ({error.strerror}); make room, or choose another folder"
            ) from error
        except BaseException:
            self._file.close()
            raise

    def _take_over(self, header: dict[str, Any], choose: Callable[[], int]) -> int:
        end = batch_size = 0
        self._file.seek(0)
        if self._file.readline() == _MAGIC:
            try:
                found = json.loads(self._file.readline())
            except (ValueError, RecursionError):
                found = None
            begun_with = _batch_size_of(found, header)
            if begun_with is not None:
                batch_size, end = begun_with, self._file.tell()
                while (record := self._next_record()) is not None:
                    features, verdicts = record
                    self.features.append(features)
                    self.verdicts.append(verdicts)
                    self.done += len(verdicts)
                    end = self._file.tell()
        self._end = end
        self._file.truncate(end)
        if not end:
            batch_size = choose()
            whole = header | {"batch_size": batch_size}
            self._write(_MAGIC + json.dumps(whole).encode() + b"\n")
        return batch_size

    def _next_record(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]] | None:
        head = self._file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return None
        first, count, size, crc = _RECORD.unpack(head)
        if first != self.done or size != count * (1 + 4 * self.feature_size):
            return None
        if size > os.fstat(self._file.fileno()).st_size:
            return None
        payload = self._file.read(size)
        if len(payload) < size or zlib.crc32(payload, first) != crc:
            return None
        verdicts = np.frombuffer(payload, np.uint8, count)
        features = np.frombuffer(payload, "<f4", offset=count).reshape(count, self.feature_size)
        return features.astype(np.float32), verdicts

    def append(self, features: NDArray[np.float32], verdicts: NDArray[np.uint8]) -> None:
        """Add a batch: ``(B, D)`` features and ``(B,)`` what became of each patch."""
        features = np.ascontiguousarray(features, np.float32)
        payload = verdicts.astype(np.uint8).tobytes() + features.astype("<f4").tobytes()
        head = _RECORD.pack(self.done, len(verdicts), len(payload), zlib.crc32(payload, self.done))
        self._write(head + payload)
        self.features.append(features)
        self.verdicts.append(verdicts)
        self.done += len(verdicts)

    def _write(self, data: bytes) -> None:
        # Past the buffer: after a full disk nothing may wait to be written on closing
        raw, rest = self._file.raw, memoryview(data)
        try:
            raw.seek(self._end)
            while rest:
                rest = rest[raw.write(rest) :]
        except OSError as error:
            raise FeatureError(
                f"{self.path} cannot be written: {error.strerror}; {self.done} patches are kept, "
                "and the next run goes on from there"
            ) from error
        self._end += len(data)

    def remove(self) -> None:
        """Delete the file: its content has found its place."""
        self._file.close()
        with contextlib.suppress(OSError):  # its content is safe; the next run deletes it
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _batch_size_of(found: Any, header: dict[str, Any]) -> int | None:
    """Return the size of the batches of a file that was begun with our header; None of others."""
    if not isinstance(found, dict):
        return None
    size = found.pop("batch_size", None)
    whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return size if whole and found == header else None


def _lock(file: io.BufferedRandom, path: Path) -> None:
    """Keep the file from a second writer for as long as it is open."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**40)  # far beyond the content: a lock on Windows also bars reading
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise FeatureError(
            f"{path} is being written by another run ({os.strerror(error.errno or 0)}); wait for "
            "it, or choose another folder"
        ) from error
