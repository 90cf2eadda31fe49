"""A proxy in front of any HTTP server that goes wrong on demand: lost replies, throttling, truncation, flipped bits.

A cable that is cut at one request and stays so leaves in a store what a client leaves that dies at it.

It speaks real HTTP, so the client's whole stack is in the test: connection pools, checksums, retries.
"""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partialmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

__all__ = ["Fault", "FaultProxy", "Seen"]

Effect = Literal[
    "lose-request",
    "lose-middle",
    "lose-reply",
    "answer",
    "truncate-reply",
    "flip-reply",
    "flip-request",
    "measure-no-reply",
]

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "date", "server"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that reached the proxy."""

    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(slots=True)
class Fault:
    """What goes wrong, with which requests, and how often."""

    effect: Effect
    """``lose-request`` and ``lose-reply`` drop the connection before and after the server has done its work;
    ``lose-middle`` when it has half of the body, or of a request without one when the client has half of the answer;
    ``answer`` replies in its place; ``measure-no-reply`` sends the body in pieces and does not say how long it is, as
    proxies do that compress; the others damage the body."""
    when: Callable[[Seen], bool] = field(default=lambda _: True)
    times: int = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cuts: bool = False
    """Nothing comes through afterwards."""


class FaultProxy:
    """Forward everything to `target`, but for the `faults` that match; each is used up by its `times`.

    A context manager; `faults` may be changed at any time, `seen` holds every request in order of arrival.

    Parameters
    ----------
    target
        URL of the server.
    unheard
        Beginnings, in lower case, of headers that come through in neither direction: a server that knows nothing of
        them.
    """

    def __init__(self, target: str, *, unheard: tuple[str, ...] = ()) -> None:
        self.target = urlsplit(target)
        self.unheard = unheard
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.is_cut = False
        self._lock = threading.Lock()
        handler = type("_BoundHandler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)

    @property
    def endpoint_url(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, seen: Seen) -> Fault | None:
        """Note a request and return the fault it meets."""
        with self._lock:
            self.seen.append(seen)
            if self.is_cut:
                return Fault("lose-request")
            for fault in self.faults:
                if fault.times > 0 and fault.when(seen):
                    fault.times -= 1
                    self.is_cut = fault.cuts
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection open longer than the test lasts

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""

    def _serve(self, method: str) -> None:
        body = self._read_body()
        seen = Seen(method, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        fault = self.proxy.take(seen)
        effect = None if fault is None else fault.effect
        if effect == "lose-request":
            self._drop()
        elif fault is not None and effect == "answer":
            self._reply(fault.status, list(fault.headers.items()), fault.body)
        else:
            self._forward(seen, effect)

    def _forward(self, seen: Seen, effect: Effect | None) -> None:
        if effect == "lose-middle" and seen.body:
            self._ask(seen, seen.body[: len(seen.body) // 2], broken=True)
            self._drop()
            return
        status, headers, body = self._ask(seen, _flip(seen.body) if effect == "flip-request" else seen.body)
        if effect == "lose-reply" or (effect == "lose-middle" and not body):
            self._drop()
        elif effect in ("truncate-reply", "lose-middle"):
            self._reply(status, headers, body, sent=body[: len(body) // 2])
            self._drop()
        elif effect == "measure-no-reply":
            self._reply_in_pieces(status, headers, body)
        else:
            self._reply(status, headers, _flip(body) if effect == "flip-reply" else body)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return bytes(whole)

    def _ask(self, seen: Seen, body: bytes, *, broken: bool = False) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send a request on; a broken one promises all of its body, and hangs up after `body`."""
        target = self.proxy.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
        try:
            connection.putrequest(seen.method, seen.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self._heard(self.headers.items()):
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(seen.body) if broken else len(body)))
            connection.endheaders(body)
            if broken:
                return 0, [], b""
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            connection.close()

    def _reply(self, status: int, headers: list[tuple[str, str]], body: bytes, sent: bytes | None = None) -> None:
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
        self.send_response_only(status)
        for name, value in self._heard(headers):
            self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if sent is None else sent)

    def _reply_in_pieces(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in self._heard(headers):
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    def _heard(self, headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP and not name.lower().startswith(self.proxy.unheard):
                yield name, value

    def _drop(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


# The names are http.server's.
for _method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{_method}", partialmethod(_Handler._serve, _method))


def _flip(body: bytes) -> bytes:
    """Return `body` with one bit in its middle turned over."""
    damaged = bytearray(body)
    if damaged:
        damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)
