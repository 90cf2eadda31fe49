"""The object store that every way writes to: a look-alike in a process of its own."""

from __future__ import annotations

import json
import os
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ingest.testing import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.testing.servers import ObjectServer

__all__ = ["BUCKET", "BenchStore", "open_bench_store"]

BUCKET = "bench"


@dataclass(frozen=True, slots=True)
class BenchStore:
    """A running look-alike with one bucket."""

    kind: Literal["fast", "moto"]
    server: ObjectServer

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.server.pid

    @property
    def endpoint_url(self) -> str:
        """``http://127.0.0.1:port``."""
        return self.server.endpoint_url

    def requests(self) -> dict[str, int]:
        """Return how often each operation was asked for since the last `reset`; moto does not count."""
        if self.kind == "moto":
            return {}
        found: dict[str, int] = self._ask("GET", "stats")["requests"]
        return found

    def reset(self, *, delay_ms: float = 0.0) -> None:
        """Forget all objects and counts; every request takes `delay_ms` longer from now on."""
        if self.kind == "fast":
            self._ask("POST", f"reset?delay_ms={delay_ms}")

    def _ask(self, method: str, what: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.endpoint_url}/-/{what}", method=method)  # noqa: S310  # our own address
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310  # our own address
            text = reply.read()
        return json.loads(text) if text else {}


@contextmanager
def open_bench_store(kind: Literal["fast", "moto"]) -> Iterator[BenchStore]:
    """Run a look-alike; any client of this process and of those it starts can log in to it."""
    with servers.fast_s3_server() if kind == "fast" else servers.s3_server() as server:
        before = dict(os.environ)
        os.environ.update({name: value for name, value in server.environment.items() if name != "AWS_ENDPOINT_URL"})
        try:
            server.create_bucket(BUCKET)
            yield BenchStore(kind, server)
        finally:
            os.environ.clear()
            os.environ.update(before)
