"""A server on this machine that sends files in parts, as an HTTP server or an S3 bucket does."""

import contextlib
import email.utils
import hashlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.local_server import served_by


class Served(BaseHTTPRequestHandler):
    """Files below a folder; ``server.twist(handler)`` may answer instead and then returns True."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, dict(self.headers)))
        if server.twist is not None and server.twist(self):
            return
        path = server.root / unquote(self.path.partition("?")[0]).lstrip("/")
        if not path.is_file():
            self.answer(404)
            return
        data = path.read_bytes()
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("If-Match", etag) != etag:
            self.answer(412)
            return
        start, _, stop = self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")
        first, last = int(start), min(int(stop or len(data)), len(data) - 1)
        if first >= len(data) > 0:
            self.answer(416)
            return
        headers = {
            "ETag": etag, "Content-Range": f"bytes {first}-{last}/{len(data)}",
            "Last-Modified": email.utils.formatdate(path.stat().st_mtime, usegmt=True),
        }  # fmt: skip
        part = data[first : last + 1]
        server.sent += len(part)
        self.answer(206, part, headers | server.headers)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve(root: Path, twist: Callable[[Served], bool] | None = None) -> Iterator[Any]:
    """Yield the server; ``server.address`` is where it is, ``server.asked`` what was asked."""
    with served_by(Served, root=root, twist=twist, asked=[], headers={}, sent=0) as server:
        yield server
