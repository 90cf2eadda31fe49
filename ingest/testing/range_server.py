"""A web server of byte strings that serves ranges, and can be told to err."""

from __future__ import annotations

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RangeServer", "range_server"]

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class RangeServer(ThreadingHTTPServer):
    """Serves what was `put`; whoever made it is to run and to close it, see `range_server`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str | None] = {}
        self.faults: list[int | Literal["cut"]] = []
        """Answers to the next GETs: a status instead of an answer, or half of the body."""
        self.serves_ranges = True
        self.ranges: list[tuple[int, int]] = []
        """First byte and end of each that was asked for."""

    @property
    def n_bytes(self) -> int:
        """What ranges have come to."""
        return sum(stop - start for start, stop in self.ranges)

    def put(self, name: str, data: bytes, etag: str | None = None) -> str:
        """Serve `data` from now on, and return its URL."""
        self.files[f"/{name}"], self.etags[f"/{name}"] = data, etag
        return f"http://127.0.0.1:{self.server_port}/{name}"


@contextlib.contextmanager
def range_server() -> Iterator[RangeServer]:
    """Run a server until the context ends."""
    server = RangeServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_HEAD(self) -> None:
        self._answer(sends=False)

    def do_GET(self) -> None:
        self._answer(sends=True)

    def _answer(self, *, sends: bool) -> None:
        data = self.server.files.get(self.path)
        fault = self.server.faults.pop(0) if sends and self.server.faults else None
        if data is None or isinstance(fault, int):
            self.send_response(404 if data is None else int(fault or 0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked and self.server.serves_ranges:
            start, stop = int(asked[1]), min(int(asked[2]) + 1, len(data))
            self.server.ranges.append((start, stop))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            data = data[start:stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if etag := self.server.etags[self.path]:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if sends:
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
            self.close_connection = fault == "cut"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # clients hang up, as they may
            super().handle()
