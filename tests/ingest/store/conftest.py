"""A store behind a faulty network, S3 and GCS in turn."""

from __future__ import annotations

import itertools

import pytest

from ingest.store.gcs import GCSStore
from ingest.store.s3 import S3Store
from ingest.testing.fault_proxy import FaultProxy
from ingest.testing.store_bench import Bench

_number = itertools.count()


@pytest.fixture(params=["s3", "gcs"])
def bench(request, s3_server, gcs_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    server, opened = (s3_server, S3Store) if request.param == "s3" else (gcs_server, GCSStore)
    url = server.create_bucket(f"faults{next(_number)}")
    with FaultProxy(server.endpoint_url) as proxy:
        bench = Bench(server, opened, proxy, f"{url}/dest")
        yield bench
        bench.store.close()
