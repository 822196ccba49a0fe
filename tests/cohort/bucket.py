"""A store on this machine that takes, lists and deletes objects as S3 does, and can refuse to."""

import contextlib
import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from tests.local_server import served_by


class _Asked(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _key(self) -> str:
        return unquote(self.path.partition("?")[0])

    def _is_refused(self) -> bool:
        self.server.writes += 1
        refuses = self.server.refuse_from is not None
        return refuses and self.server.writes >= self.server.refuse_from

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._is_refused():
            return self._answer(403)
        kept = {k: v for k, v in self.headers.items() if k.lower().startswith("x-amz-meta-")}
        self.server.objects[self._key()] = data, kept
        return self._answer(200, headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    def do_DELETE(self) -> None:
        if self._is_refused():
            return self._answer(403)
        self.server.objects.pop(self._key(), None)
        return self._answer(204)

    def do_HEAD(self) -> None:
        data, kept = self.server.objects.get(self._key(), (None, {}))
        return self._answer(404) if data is None else self._answer(200, data, kept)

    def do_GET(self) -> None:
        query = parse_qs(self.path.partition("?")[2])
        if "list-type" not in query:
            return self.do_HEAD()
        start = f"{self._key().rstrip('/')}/"
        prefix = start + query.get("prefix", [""])[0]
        keys = sorted(key for key in self.server.objects if key.startswith(prefix))
        found = [f"<Contents><Key>{escape(key[len(start) :])}</Key></Contents>" for key in keys]
        body = (
            f"<ListBucketResult>{''.join(found)}<IsTruncated>false</IsTruncated></ListBucketResult>"
        )
        return self._answer(200, body.encode())

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def store() -> Iterator[Any]:
    """Yield the store; from write number ``refuse_from`` on it refuses."""
    with served_by(_Asked, objects={}, writes=0, refuse_from=None) as server:
        yield server
