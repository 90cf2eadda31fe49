"""Object stores on this machine: S3 and GCS look-alikes as processes of their own, gone with whoever started them.

Each listens on a free loopback port, so any process can reach it, Ray's workers too. A server ends when its standard
input does, which is when its parent ends, however that comes about.

::

    with s3_server() as s3:
        s3.create_bucket("lung")
        subprocess.run([...], env={**os.environ, **s3.environment})
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ObjectServer", "fast_s3_server", "gcs_server", "plain_gcs_server", "s3_server"]

Kind = Literal["s3", "s3-fast", "gcs", "gcs-plain"]


@dataclass(frozen=True, slots=True)
class ObjectServer:
    """A running look-alike."""

    kind: Kind
    endpoint_url: str
    """``http://127.0.0.1:port``."""

    pid: int
    """Of its process, for those who ask what it costs."""

    @property
    def _is_s3(self) -> bool:
        return self.kind in ("s3", "s3-fast")

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which any client finds it: endpoint, credentials it accepts, region."""
        if self._is_s3:
            return {
                "AWS_ENDPOINT_URL": self.endpoint_url,
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        return {"STORAGE_EMULATOR_HOST": self.endpoint_url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def create_bucket(self, name: str) -> str:
        """Make a bucket, unless there is one of that name, and return its URL."""
        if self._is_s3:
            request = urllib.request.Request(f"{self.endpoint_url}/{name}", method="PUT")  # noqa: S310  # our own address
        else:
            request = urllib.request.Request(  # noqa: S310  # our own address
                f"{self.endpoint_url}/storage/v1/b",
                data=json.dumps({"name": name}).encode(),
                headers={"Content-Type": "application/json"},
                method="POST",
            )
        try:
            urllib.request.urlopen(request, timeout=30).close()  # noqa: S310  # our own address
        except urllib.error.HTTPError as error:
            with error:
                if error.code != HTTPStatus.CONFLICT:
                    raise
        return f"{'s3' if self._is_s3 else 'gs'}://{name}"


@contextmanager
def s3_server() -> Iterator[ObjectServer]:
    """Run moto, with checksums compared and conditional writes atomic."""
    with _running("s3") as server:
        yield server


@contextmanager
def fast_s3_server() -> Iterator[ObjectServer]:
    """Run `ingest.testing.fast_s3`, which costs a quarter of moto: for measuring what talks to it."""
    with _running("s3-fast") as server:
        yield server


@contextmanager
def gcs_server() -> Iterator[ObjectServer]:
    """Run gcp-storage-emulator, with generations as conditions and listings in pages."""
    with _running("gcs") as server:
        yield server


@contextmanager
def plain_gcs_server() -> Iterator[ObjectServer]:
    """Run gcp-storage-emulator as it is: it ignores preconditions, and a run must refuse it."""
    with _running("gcs-plain") as server:
        yield server


@contextmanager
def _running(kind: Kind) -> Iterator[ObjectServer]:
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(  # noqa: S603  # this very module
        [sys.executable, "-m", "ingest.testing.servers", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])},
    )
    try:
        port = process.stdout.readline().strip() if process.stdout else ""
        if not port.isdecimal():
            raise RuntimeError(f"the {kind} look-alike did not start (exit code {process.wait(timeout=10)})")
        yield ObjectServer(kind, f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.communicate(timeout=20)  # closes its input


def _serve(kind: Kind) -> None:
    """Serve in this process until standard input ends; the port is the first line of standard output."""
    server = _MAKERS[kind]()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()


class _Server(Protocol):
    server_port: int

    def serve_forever(self) -> None: ...

    def shutdown(self) -> None: ...


def _make_s3() -> HTTPServer:
    from ingest.testing.strict_s3 import make_s3_server

    return make_s3_server()


def _make_fast_s3() -> _Server:
    from ingest.testing.fast_s3 import FastS3

    return FastS3()


def _make_gcs() -> HTTPServer:
    from ingest.testing.strict_gcs import make_gcs_server

    return make_gcs_server()


def _make_plain_gcs() -> HTTPServer:
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    return HTTPServer(("127.0.0.1", 0), partial(RequestHandler, Storage(use_memory_fs=True)))


_MAKERS: dict[Kind, Callable[[], _Server]] = {
    "s3": _make_s3,
    "s3-fast": _make_fast_s3,
    "gcs": _make_gcs,
    "gcs-plain": _make_plain_gcs,
}

if __name__ == "__main__":
    _serve(sys.argv[1])  # type: ignore[arg-type]  # only _running starts it
