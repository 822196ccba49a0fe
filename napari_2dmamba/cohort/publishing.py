"""Finished slides and the cohort's table put into a bucket, each of them whole.

Work is done on disk, where files can be written in part, locked and renamed; a bucket knows none of
that. What is finished is copied. A slide's ``status.json`` is emptied first and written last, so
whoever finds one that says *done* finds all that belongs to it; and nothing is ever deleted from a
place where none was put by this program.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from napari_2dmamba.cohort.folders import WorkedOnElsewhere, worked_on
from napari_2dmamba.cohort.settings_file import SETTINGS_FILE
from napari_2dmamba.cohort.status import DONE, STATUS_FILE, SUMMARY_FILE, read_status
from napari_2dmamba.errors import CohortError, UserError
from napari_2dmamba.slide.addresses import is_address
from napari_2dmamba.slide.remote import s3_client

_AT_ONCE = 4
_LARGEST = 5 * 2**30
_MARK = "2dmamba-status"
"""Of a status: which one it is, so that it is known again."""
_UNFINISHED = "unfinished"


class Publisher:
    """Copies what is finished into a bucket, on threads of its own.

    Parameters
    ----------
    address
        ``s3://bucket`` or ``s3://bucket/folder``.
    out
        The cohort's folder.

    Raises
    ------
    CohortError
        When it is no such address, or nothing can be written there.
    """

    def __init__(self, address: str, out: Path) -> None:
        bucket, _, folder = address.strip().partition("://")[2].strip("/").partition("/")
        if not is_address(address) or address[:2].lower() != "s3" or not bucket:
            raise CohortError(
                "results are published to addresses like s3://bucket/folder; give such a one"
            )
        self._bucket, self._folder, self._out = bucket, folder.strip("/"), out
        try:
            self._client = s3_client("the place for the results")
        except UserError as error:
            raise CohortError(str(error)) from None
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="publish")
        self._running: dict[str, Future[None]] = {}
        with self._told(SETTINGS_FILE):  # stops here where nothing can be written
            self._put(out / SETTINGS_FILE)

    def slide(self, folder: Path) -> None:
        """Take on the folder of a finished slide."""
        self._running[folder.name] = self._threads.submit(self._publish, folder)

    def close(self, *, whole: bool) -> list[str]:
        """Wait, put the table there, and return one sentence for each thing that is not there.

        Parameters
        ----------
        whole
            Whether to finish; else what has not begun is left to the next run.
        """
        self._threads.shutdown(cancel_futures=not whole)
        problems = []
        for name, future in self._running.items():
            try:
                if future.cancelled():
                    raise CohortError(f"{name} was not published any more")
                future.result()
            except CohortError as error:
                problems.append(str(error))
        try:
            with self._told(SUMMARY_FILE):
                self._put(self._out / SUMMARY_FILE)
        except CohortError as error:
            problems.append(str(error))
        self._client.close()
        return problems

    def _publish(self, folder: Path) -> None:
        try:
            with self._told(folder.name), worked_on(folder):
                status = read_status(folder)
                if status is None or status.state != DONE:
                    raise WorkedOnElsewhere
                self._publish_files(folder)
        except WorkedOnElsewhere:
            raise CohortError(
                f"{folder.name} was taken up by another run before it was published"
            ) from None

    def _publish_files(self, folder: Path) -> None:
        sign = folder / STATUS_FILE
        mark, own_mark = self._mark_at(self._key(sign)), _mark_of(sign)
        if mark == own_mark:
            return  # it was published before
        there = self._keys_below(self._key(folder) + "/")
        if mark is None and there:
            raise CohortError(
                f"{folder.name} in the bucket {self._bucket} holds other things than a result; "
                "publish to another folder of it"
            )
        files = [path for path in sorted(folder.rglob("*")) if _is_result(path) and path != sign]
        self._client.put_object(
            Bucket=self._bucket, Key=self._key(sign), Body=b"{}", Metadata={_MARK: _UNFINISHED}
        )
        for key in there - {self._key(path) for path in [*files, sign]}:  # of an earlier result
            self._client.delete_object(Bucket=self._bucket, Key=key)
        for path in files:
            self._put(path)
        self._put(sign, {_MARK: own_mark})

    def _mark_at(self, key: str) -> str | None:
        """Return the mark of a status that this program put there, or None."""
        import botocore.exceptions

        try:
            found = self._client.head_object(Bucket=self._bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        mark: str | None = found.get("Metadata", {}).get(_MARK)
        return mark

    def _keys_below(self, prefix: str) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        return {found["Key"] for page in pages for found in page.get("Contents", ())}

    def _put(self, path: Path, metadata: dict[str, str] | None = None) -> None:
        if path.stat().st_size > _LARGEST:
            raise CohortError(f"{path.name} is larger than the 5 GB that one object takes")
        with path.open("rb") as file:
            self._client.put_object(
                Bucket=self._bucket, Key=self._key(path), Body=file, Metadata=metadata or {}
            )

    def _key(self, path: Path) -> str:
        below = path.relative_to(self._out).as_posix()
        return f"{self._folder}/{below}" if self._folder else below

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Turn what the store or the disk refuses into one sentence."""
        import botocore.exceptions

        what: Any
        try:
            yield
            return
        except botocore.exceptions.ClientError as error:
            what = error.response.get("Error", {}).get("Code", "refused")
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.HTTPClientError) as error:
            what = type(error).__name__
        except OSError as error:
            what = error.strerror
        raise CohortError(
            f"{name} could not be put into the bucket {self._bucket} ({what}); check it and the "
            "AWS configuration of this machine, and run the same command again"
        )


def _is_result(path: Path) -> bool:
    """Return whether a file is one to hand on, and not a lock, a journal or a second name."""
    if not path.is_file() or path.name.startswith(".") or path.suffix == ".journal":
        return False
    is_named_twice = path.name.startswith("features-") and path.with_name("features.h5").exists()
    return not is_named_twice


def _mark_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
