"""Addresses of slides on the network, and the files on this machine that stand for them.

Everything else here names slides by files: lists, records, other processes. So an address the
user gives becomes a small private file under the cache folder, named like the slide. It holds the
whole address, which may contain a signature or a password, and is the only thing that does. No
file elsewhere is taken for one: what a downloaded folder holds makes no requests.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import SlideError

_SCHEMES = ("http", "https", "s3")
_ADDRESS = re.compile(r"(?i)(?:https?|s3):/{1,2}(?=[^/])")
_SERIES = re.compile(r"/studies/(?P<study>[0-9.]{1,64})/series/(?P<series>[0-9.]{1,64})/?")
_STUDY = re.compile(r".*/studies/[0-9.]{1,64}(?:/series)?/?")
_LONGEST = 8192
_LONGEST_NAME = 120
_SIGNS = re.compile(r"(?i)x-(?:amz|goog)-.*|signature|expires|awsaccesskeyid|key-pair-id|policy")
_SIGNS_AZURE = re.compile(r"s(?:ig|e|t|p|v|r|ip|pr|kt|ke|ks|kv|koid|ktid)")
"""Parts of a query that sign it: the same slide, signed again, is the same slide. Whatever else
stands there may choose the slide."""


def is_address(text: object) -> bool:
    """Whether a text is an address on the network; a `Path` has lost one of its slashes."""
    return _ADDRESS.match(os.fspath(text) if isinstance(text, Path) else str(text)) is not None


def slide_path(text: str | os.PathLike[str]) -> Path:
    """Return the path a user's word for a slide stands for, be it an address or a file.

    Raises
    ------
    SlideError
        When it is an address that cannot be one.
    """
    given = os.fspath(text)
    return stand_in(given) if is_address(given) else Path(given)


def stand_in(address: str) -> Path:
    """Return the private file that stands for an address; made where there is none.

    Raises
    ------
    SlideError
        When it is no address of a file, or the file cannot be written.
    """
    address = address.strip()
    found = _ADDRESS.match(address)
    unfit = r"[\x00-\x1f]" if address[:2].lower() == "s3" else r"[\s\x00-\x1f]"
    if found is None or len(address) > _LONGEST or re.search(unfit, address):
        raise SlideError("this is no address of a slide; give one that begins with https:// or s3:")
    address = address[: found.end()].rstrip("/").lower() + "//" + address[found.end() :]
    try:
        parts = urlsplit(address)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in _SCHEMES:
        raise SlideError("this address names no server; give one like https://server/slide.svs")
    place = folder() / _identity(address)[:20]
    path = place / _name(parts.path, host)
    if _told(path) != address:
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SlideError(f"{place} cannot be written ({error.strerror})") from error
        with atomic_write(path, SlideError) as part:
            part.touch(mode=0o600)
            part.write_text(json.dumps({"address": address}), encoding="utf-8")
    return path


def address_of(path: Path) -> str | None:
    """Return the address a path stands for, or None for an ordinary file."""
    return addresses_of([path])[0]


def addresses_of(paths: Iterable[Path]) -> list[str | None]:
    """Return what `address_of` says of each of many paths."""
    places = folder(), folder().resolve()
    return [_told(path) if path.parent.parent in places else None for path in paths]


def identity_of(address: str) -> str:
    """Return a number of the slide, the same whoever signed the address."""
    return _identity(address)


def dicomweb_series(address: str) -> tuple[str, str] | None:
    """Return the numbers of study and series where an address is that of a DICOMweb series.

    Raises
    ------
    SlideError
        When it is that of a whole study.
    """
    if address.startswith("s3:"):
        return None
    path = urlsplit(address).path
    if _STUDY.fullmatch(path):
        raise SlideError(
            "this is the address of a DICOM study; add /series/ and the number of the one series "
            "that is the slide"
        )
    found = _SERIES.search(path)
    if found is None or found.end() != len(path):
        return None
    return found["study"], found["series"]


def server_of(address: str) -> str:
    """Return what may be shown: the server's or the bucket's name."""
    return urlsplit(address).hostname or ""


def folder() -> Path:
    """Return the folder of all stand-ins."""
    from platformdirs import user_cache_path

    return user_cache_path("napari-2dmamba") / "remote"


def _told(path: Path) -> str | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8")).get("address")
    except (OSError, ValueError, AttributeError):
        return None
    return told if isinstance(told, str) and is_address(told) else None


def _identity(address: str) -> str:
    if address.startswith("s3:"):  # its keys are no web paths: every character counts
        return hashlib.sha256(address.encode()).hexdigest()
    parts = urlsplit(address)
    query = parse_qsl(parts.query, keep_blank_values=True)
    is_azure = {"sig", "sv"} <= {name for name, _ in query}
    query = [
        (name, value)
        for name, value in query
        if not _SIGNS.fullmatch(name) and not (is_azure and _SIGNS_AZURE.fullmatch(name))
    ]
    host = parts.netloc.rpartition("@")[2].lower()
    plain = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), urlencode(query), ""))
    return hashlib.sha256(plain.encode()).hexdigest()


def _name(path: str, host: str) -> str:
    series = _SERIES.search(path)
    if series is not None and series.end() == len(path):
        return f"{series['series']}.dcm"
    last = unquote(path.rstrip("/").rpartition("/")[2]) or host
    name = re.sub(r"[^\w.()+-]", "_", last).lstrip(".") or "slide"
    stem, dot, suffix = name.rpartition(".")
    return f"{stem[:_LONGEST_NAME]}{dot}{suffix[:20]}" if dot else name[:_LONGEST_NAME]
