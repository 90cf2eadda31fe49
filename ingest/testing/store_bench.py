"""A store behind a faulty network, and words for its requests: what tests of stores share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.store import Budget
from ingest.store.url import parse_store_url
from ingest.testing.fault_proxy import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.testing.fault_proxy import Effect, FaultProxy, Seen
    from ingest.testing.servers import ObjectServer

__all__ = ["DATA", "LOGIN", "QUICK", "Bench", "reads", "writes"]

QUICK = Budget(attempts=4, total_s=20.0, first_s=0.01, most_s=0.02)
DATA = bytes(range(256)) * 64
LOGIN = b"<html><head><title>Welcome</title></head><body>to the airport</body></html>"


class Bench:
    """A store behind a faulty network.

    Parameters
    ----------
    opened
        Its class: `ingest.store.s3.S3Store` or `ingest.store.gcs.GCSStore`.
    url
        Of its folder at `server`.
    """

    def __init__(self, server: ObjectServer, opened: Any, proxy: FaultProxy, url: str) -> None:
        self.kind, self.server, self.opened, self.proxy, self.url = server.kind, server, opened, proxy, url
        self.store = self.open()

    def open(self, **sizes: int) -> Any:
        """Open the store, with other sizes of parts."""
        return self.opened(parse_store_url(self.url), endpoint_url=self.proxy.endpoint_url, budget=QUICK, **sizes)

    def fail(self, effect: Effect, when: Callable[[Seen], bool] = lambda _: True, **more: Any) -> None:
        """Have the next requests that `when` is true of fail."""
        self.proxy.faults.append(Fault(effect, when, **more))

    def answer(self, status: int, code: str, message: str = "", times: int = 1, **headers: str) -> None:
        """Let the next requests be answered by an error as this store words it."""
        if self.kind == "s3":
            body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        else:
            body = f'{{"error": {{"code": {status}, "message": "{message}", "errors": [{{"reason": "{code}"}}]}}}}'
        self.fail("answer", status=status, body=body.encode(), times=times, headers=headers)

    def direct(self, key: str) -> bytes:
        """Read past the proxy."""
        store = self.opened(parse_store_url(self.url), endpoint_url=self.server.endpoint_url, budget=QUICK)
        try:
            return bytes(store.get(key))
        finally:
            store.close()


def writes(seen: Seen) -> bool:
    """Tell a request that changes something."""
    return seen.method in ("PUT", "POST")


def reads(seen: Seen) -> bool:
    """Tell a request that reads an object or lists."""
    return seen.method == "GET"
