"""What every part of the suite shares: the object stores."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import zlib
from typing import TYPE_CHECKING

import pytest

from ingest.testing import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.cluster import Connection

# Before anything imports gcsfs: otherwise every bucket of a look-alike costs it a minute's search for another protocol.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

# The tests' own readers, too, must not die of what `ingest.fetch.soma_config` guards against.
os.environ["TILEDB_SM_QUERY_SPARSE_GLOBAL_ORDER_PREPROCESS_TILE_MERGE"] = "0"

pytest.register_assert_rewrite("ingest.testing.store_conformance", "ingest.testing.store_machine")


def pytest_collection_finish() -> None:
    """Have the garbage collector look seldom, and not at what was imported and collected.

    It looks at half a million objects else whenever a test has made many: an eighth of all the time there is.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `sampled` leaves out: by name, so that it does not depend on what else is collected.

    One case of each family stays, whatever its name; what is `long` by itself is in no sample.
    """
    left_out: dict[tuple[str, str], list[pytest.Item]] = {}
    kept = set()
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled is not None and item.get_closest_marker("long") is None:
            test = str(item.path), item.nodeid.partition("[")[0]
            if zlib.crc32(item.name.encode()) % sampled.args[0]:
                left_out.setdefault(test, []).append(item)
            else:
                kept.add(test)
    for test, cases in left_out.items():
        for case in cases[test not in kept :]:
            case.add_marker(pytest.mark.long)
            case.add_marker(pytest.mark.left_out)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[servers.ObjectServer]:
    """An S3 look-alike: `endpoint_url`, `environment` for other processes, `create_bucket`."""
    with servers.s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[servers.ObjectServer]:
    """A GCS look-alike that honours preconditions: the same three."""
    with servers.gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def plain_gcs_server() -> Iterator[servers.ObjectServer]:
    """A GCS look-alike that ignores preconditions; a run must refuse it."""
    with servers.plain_gcs_server() as server:
        yield server


_RAY_SETTINGS = (
    "RAY_memory_monitor_refresh_ms",
    "RAY_enable_metrics_collection",
    "RAY_metrics_report_interval_ms",
)


@pytest.fixture(scope="session")
def local_ray(s3_server: servers.ObjectServer, gcs_server: servers.ObjectServer) -> Iterator[Connection]:
    """One local Ray for all tests, in a folder whose name leaves room for Ray's socket names.

    Whatever this process runs on Ray meanwhile runs there, commands included; its workers reach the look-alikes.
    """
    from actors.cluster import connect

    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    stores = {**s3_server.environment, **gcs_server.environment}
    before = {name: os.environ.pop(name, None) for name in ("RAY_TMPDIR", "RAY_ADDRESS", *_RAY_SETTINGS, *stores)}
    # Other work on this machine may fill its memory; Ray would end workers for it, which tests would take for a fault.
    # Metrics are on, as on a cluster, and reported often enough for tests that wait for them.
    own = {"RAY_memory_monitor_refresh_ms": "0", "RAY_enable_metrics_collection": "1"}
    os.environ.update(stores, RAY_TMPDIR=folder, RAY_metrics_report_interval_ms="2000", **own)
    try:
        with connect(workers=max(4, 2 * (os.cpu_count() or 1))) as connection:
            _restore(before)
            yield connection
    finally:
        _restore(before)
        shutil.rmtree(folder, ignore_errors=True)


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
