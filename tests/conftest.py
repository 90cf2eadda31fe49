"""What every part of the suite shares: the object stores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ingest.testing import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before anything imports gcsfs: otherwise every bucket of a look-alike costs it a minute's search for another protocol.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

# The tests' own readers, too, must not die of what `ingest.fetch.soma_config` guards against.
os.environ["TILEDB_SM_QUERY_SPARSE_GLOBAL_ORDER_PREPROCESS_TILE_MERGE"] = "0"

pytest.register_assert_rewrite("ingest.testing.store_conformance", "ingest.testing.store_machine")


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
