"""A server on this machine that answers as the Hugging Face hub does, as far as we ask it."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dict of files; requests are written down.

    Attributes
    ----------
    repositories
        ``{"owner/name": {"file": bytes}}``.
    gated
        Names that ask to accept a licence first.
    requests
        ``(method, path, bytes sent)`` of every answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.requests: list[tuple[str, str, int]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def fetched(self) -> list[str]:
        """Names of the files of which all bytes were sent."""
        return [
            unquote(path).rpartition("/")[2]
            for method, path, sent in self.requests
            if method == "GET" and "/resolve/" in path and sent == self._size(path)
        ]

    def _size(self, path: str) -> int:
        repo, _, _, file = _parts(path)
        return len(self.repositories.get(repo, {}).get(file, b""))


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def _parts(path: str) -> tuple[str, str, str, str]:
    path = unquote(path.partition("?")[0])
    found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision)/(.+))?", path)
    if found:
        return found[1], "info", found[3] or "main", ""
    found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
    if found is None:
        return "", "", "", ""
    return found[1], "file", found[2], found[3]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        repo, what, revision, file = _parts(self.path)
        files = self.server.repositories.get(repo)
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "v1", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif what == "info":
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": [],
                    "lastModified": "2026-03-02T01:00:00.000Z", "private": False}  # fmt: skip
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif repo in self.server.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif file not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send_file(files[file])

    def _send_file(self, data: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT,
                   "Accept-Ranges": "bytes"}  # fmt: skip
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, data, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        part = data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, part, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # a server that is shut down must not go on
        self.end_headers()
        if self.command == "GET":
            self.server.requests.append((self.command, self.path, len(body)))
            self.wfile.write(body)
        else:
            self.server.requests.append((self.command, self.path, 0))
