"""A server of HTTP on this machine, for as long as a test needs it."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextlib.contextmanager
def served_by(handler: type[BaseHTTPRequestHandler], **state: Any) -> Iterator[Any]:
    """Yield the server, with ``state`` for its handler; ``server.address`` is where it is."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    vars(server).update(state)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
