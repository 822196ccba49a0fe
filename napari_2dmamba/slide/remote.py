"""Parts of files on the network: by HTTP range requests, or from S3; always of one version.

Addresses may hold secrets, so no error here quotes one, nor what a library says of it. Redirects
lead to http and https only, never from https to http, and take no password to another server.
"""

import contextlib
import email.utils
import importlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from napari_2dmamba.errors import SlideError

_CONNECT_SECONDS, _READ_SECONDS = 10.0, 30.0
_TRIES, _PAUSE_SECONDS = 3, 0.3
_MOST_REDIRECTS = 5
_PIECE = 2**16
_SETTLED = timedelta(minutes=1)
_NEEDS = 'run pip install "napari-2dmamba[remote]"'
_TRY_AGAIN = {429, 500, 502, 503, 504}
_T = TypeVar("_T")


class RemoteError(SlideError):
    """Something on the network cannot be read; names the slide, never its address."""


class AbsentError(RemoteError):
    """There is nothing at the address."""


class ChangedError(RemoteError):
    """The file is no longer the one that was opened."""


class ConnectionCutError(RemoteError):
    """The server cannot be reached, or stopped in the middle."""


@dataclass(frozen=True)
class Version:
    """What tells one version of a file from another.

    Attributes
    ----------
    etag, modified
        As the server states them; empty where it does not.
    size
        Bytes of the whole file.
    """

    etag: str
    modified: str
    size: int

    @property
    def is_stated(self) -> bool:
        """Whether a change of the same size would be seen."""
        return bool(self.etag or self.modified)

    def is_firm(self, moment: datetime | None) -> bool:
        """Whether no other bytes can ever have this version; so RFC 9110, 8.8.2.2.

        Parameters
        ----------
        moment
            When the version was told, by the server's clock, whose times count whole seconds.
        """
        if self.etag and not self.etag.startswith("W/"):
            return True
        written = _moment(self.modified)
        return None not in (written, moment) and moment - written > _SETTLED  # type: ignore[operator]

    def is_newer_than(self, moment: datetime | None) -> bool:
        """Whether the file was written after a moment of the server's clock, as far as is told."""
        written = _moment(self.modified)
        return moment is not None and written is not None and written > moment


class Transport(Protocol):
    """Reads parts of files below one address; may be used from several threads.

    Attributes
    ----------
    began
        When the first part was read, by the server's clock; None where it tells none.
    """

    began: datetime | None

    def read(
        self, key: str, start: int, stop: int, version: Version | None
    ) -> tuple[bytes, Version]:
        """Return bytes ``start`` to ``stop`` (cut at the file's end), and the file's version.

        Parameters
        ----------
        key
            Below the address; empty for the address itself.
        version
            What the file must still be.

        Raises
        ------
        RemoteError
            In one sentence.
        """
        ...

    def close(self) -> None:
        """Let connections go."""
        ...


def transport_for(address: str, name: str) -> Transport:
    """Return what reads an address.

    Raises
    ------
    RemoteError
        When the extra ``remote`` is not installed.
    """
    return S3(address, name) if address.startswith("s3:") else Http(address, name)


class Http:
    """Range requests over kept connections, one session for each thread."""

    def __init__(self, address: str, name: str) -> None:
        try:
            import requests
        except ImportError:
            raise RemoteError(
                f"{name} lies on the network, and requests is not installed: {_NEEDS}"
            ) from None
        self._requests = requests
        self.began: datetime | None = None
        parts = urlsplit(address)
        self._name, self._local = name, threading.local()
        self._auth: Any = None
        if parts.username:
            self._auth = (unquote(parts.username), unquote(parts.password or ""))
        elif parts.password:
            self._auth = _Bearer(unquote(parts.password))
        self._parts = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")

    def read(
        self, key: str, start: int, stop: int, version: Version | None
    ) -> tuple[bytes, Version]:
        """See `Transport.read`."""
        return _patiently(lambda: self._read_once(key, start, stop, version))

    def whole(self, key: str, accept: str, most: int) -> tuple[bytes, str]:
        """Return the whole of what lies below the address, and its content type.

        Parameters
        ----------
        key
            As of `read`.
        accept
            Kinds that are wanted, as HTTP writes them.
        most
            Bytes; more are refused.

        Raises
        ------
        RemoteError
            In one sentence.
        """
        return _patiently(lambda: self._whole_once(key, accept, most))

    def _whole_once(self, key: str, accept: str, most: int) -> tuple[bytes, str]:
        data = bytearray()
        try:
            with self._follow(self._address(key), {"Accept": accept}) as response:
                if response.status_code == 204:
                    raise _error_for(404, self._name)
                self._judge(response, None)
                for piece in response.iter_content(_PIECE):
                    data += piece
                    if len(data) > most:
                        raise RemoteError(
                            f"the server of {self._name} sends more than {most} bytes where "
                            "less was asked for; do not trust it"
                        )
                return bytes(data), response.headers.get("Content-Type", "")
        except self._requests.RequestException:
            raise ConnectionCutError(cut(self._name)) from None

    def _read_once(
        self, key: str, start: int, stop: int, version: Version | None
    ) -> tuple[bytes, Version]:
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if version is not None and version.etag and not version.etag.startswith("W/"):
            headers["If-Match"] = version.etag
        elif version is not None and version.modified:
            headers["If-Unmodified-Since"] = version.modified
        try:
            with self._follow(self._address(key), headers) as response:
                self._judge(response, version)
                self.began = self.began or _moment(response.headers.get("Date", ""))
                found, first = _version_in(response, start)
                if version is not None and found != version:
                    raise ChangedError(changed(self._name))
                self._require_range(response, found, first, start, stop)
                length = max(0, min(stop, found.size) - start)
                data = bytearray()
                for piece in response.iter_content(_PIECE):
                    data += piece
                    if len(data) >= length:
                        break
        except self._requests.RequestException:
            raise ConnectionCutError(cut(self._name)) from None
        if len(data) < length:
            raise ConnectionCutError(cut(self._name))
        return bytes(data[:length]), found

    def _follow(self, address: str, headers: dict[str, str]) -> Any:
        """Return the last response of a chain of redirects that was looked at one by one."""
        auth, began = self._auth, urlsplit(address)
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._session().get(
                address, headers=headers, auth=auth or _no_auth, stream=True,
                allow_redirects=False, timeout=(_CONNECT_SECONDS, _READ_SECONDS),
            )  # fmt: skip
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            there = response.headers.get("Location", "")
            response.close()
            address = urljoin(address, there)
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or (
                began.scheme == "https" and parts.scheme == "http"
            ):
                raise RemoteError(
                    f"the server of {self._name} sends on to a place that is not followed; give "
                    "the slide's own https address"
                )
            if parts.netloc != began.netloc:
                auth = None
        raise RemoteError(
            f"the server of {self._name} sends on more than {_MOST_REDIRECTS} times; give the "
            "slide's own address"
        )

    def _judge(self, response: Any, version: Version | None) -> None:
        status, name = response.status_code, self._name
        if status in (200, 206):
            return
        if status in (412, 416) and version is not None:
            raise ChangedError(changed(name))
        raise _error_for(status, name)

    def _require_range(
        self, response: Any, found: Version, first: int, start: int, stop: int
    ) -> None:
        whole = response.status_code == 200 and start == 0 and found.size <= stop
        if response.headers.get("Content-Encoding", "identity") != "identity" or (
            first != start or not (response.status_code == 206 or whole)
        ):
            raise RemoteError(
                f"the server of {self._name} does not send parts of files (HTTP ranges), without "
                "which a slide cannot be read over the network; download it and open the copy"
            )

    def _address(self, key: str) -> str:
        path = self._parts.path
        if key:
            path = path.rstrip("/") + "/" + quote(key)
        return urlunsplit(self._parts._replace(path=path))

    def _session(self) -> Any:
        if not hasattr(self._local, "session"):
            self._local.session = self._requests.Session()
        return self._local.session

    def close(self) -> None:
        """See `Transport.close`; sessions of other threads end with these."""
        with contextlib.suppress(AttributeError):
            self._local.session.close()


class _Bearer:
    """Sends a token; an address holds it as a password without a user, ``https://:TOKEN@…``."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def s3_client(name: str) -> Any:
    """Return botocore's client for S3, by the configuration of this machine.

    Parameters
    ----------
    name
        What lies in the bucket; for the sentence of an error.

    Raises
    ------
    RemoteError
        When the extra ``remote`` is not installed, or the configuration is wrong.
    """
    try:
        import botocore.config
        import botocore.exceptions
        import botocore.session
    except ImportError:
        raise RemoteError(
            f"{name} lies in an S3 bucket, and botocore is not installed: {_NEEDS}"
        ) from None
    session = botocore.session.get_session()
    try:
        unsigned = session.get_credentials() is None
        return session.create_client(
            "s3",
            config=botocore.config.Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": _TRIES, "mode": "standard"},
                signature_version=botocore.UNSIGNED if unsigned else None,
            ),
            region_name=session.get_config_variable("region") or "us-east-1",
        )
    except botocore.exceptions.BotoCoreError as error:
        raise RemoteError(
            f"{name} cannot be reached in S3 ({type(error).__name__}); check the AWS "
            "configuration of this machine"
        ) from None


class S3:
    """Objects of a bucket, by the keys, profile and endpoint that the environment configures."""

    def __init__(self, address: str, name: str) -> None:
        bucket, _, key = address.removeprefix("s3://").partition("/")
        if "@" in bucket or "?" in address:
            raise RemoteError(
                f"the s3 address of {name} holds more than bucket and key; keys and endpoints are "
                "taken from the AWS configuration of this machine"
            )
        self.began: datetime | None = None
        self._name, self._bucket, self._key = name, bucket, key.rstrip("/")
        self._client = s3_client(name)
        self._exceptions = importlib.import_module("botocore.exceptions")

    def read(
        self, key: str, start: int, stop: int, version: Version | None
    ) -> tuple[bytes, Version]:
        """See `Transport.read`."""
        whole = "/".join(part for part in (self._key, key) if part)
        asked: dict[str, Any] = {"Bucket": self._bucket, "Key": whole}
        asked["Range"] = f"bytes={start}-{stop - 1}"
        if version is not None and version.etag:
            asked["IfMatch"] = version.etag
        try:
            answer = self._client.get_object(**asked)
            data = answer["Body"].read()
        except self._exceptions.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status in (412, 416) and version is not None:
                raise ChangedError(changed(self._name)) from None
            raise _error_for(status, self._name) from None
        except (self._exceptions.BotoCoreError, self._exceptions.HTTPClientError):
            raise ConnectionCutError(cut(self._name)) from None
        told = answer["ResponseMetadata"].get("HTTPHeaders", {})
        self.began = self.began or _moment(told.get("date", ""))
        size = int(answer.get("ContentRange", f"/{answer['ContentLength']}").rpartition("/")[2])
        found = Version(str(answer.get("ETag", "")), told.get("last-modified", ""), size)
        if version is not None and found != version:
            raise ChangedError(changed(self._name))
        if len(data) != max(0, min(stop, size) - start):
            raise ConnectionCutError(cut(self._name))
        return data, found

    def close(self) -> None:
        """See `Transport.close`."""
        self._client.close()


def _patiently(ask: Callable[[], _T]) -> _T:
    """Return what a request brings; one whose connection breaks is sent again, a few times."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS * 2**attempt)
        try:
            return ask()
        except ConnectionCutError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _no_auth(request: Any) -> Any:
    """Keep requests from sending what it finds in .netrc."""
    return request


def _version_in(response: Any, start: int) -> tuple[Version, int]:
    """Return the version a response is of, and where its bytes begin."""
    headers = response.headers
    first, size = 0, -1
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", "").strip())
    if told:
        first, size = int(told[1]), int(told[2])
    elif response.status_code == 200 and headers.get("Content-Length", "").isdigit():
        size = int(headers["Content-Length"])
    else:
        first = start + 1  # no part that was asked for
    return Version(headers.get("ETag", ""), headers.get("Last-Modified", ""), size), first


def _moment(text: str) -> datetime | None:
    """Read a time as HTTP writes it."""
    try:
        return email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None


def _error_for(status: int, name: str) -> RemoteError:
    if status in (401, 403, 407):
        return RemoteError(
            f"the server refuses {name} ({status}); check that the address is complete, still "
            "valid, and that you may read the slide"
        )
    if status in (404, 410):
        return AbsentError(f"there is no {name} at this address ({status}); check it")
    if status in _TRY_AGAIN:
        return ConnectionCutError(f"the server of {name} is busy or broken ({status}); try later")
    return RemoteError(f"the server of {name} answers {status} and sends nothing; check it")


def changed(name: str) -> str:
    """Return the sentence about a file of which there is another version now."""
    return f"{name} changed on the server since it was opened; open it again"


def cut(name: str) -> str:
    """Return the sentence about a connection that failed."""
    return (
        f"the connection to the server of {name} failed or was cut; check the network and open "
        "the slide again"
    )
