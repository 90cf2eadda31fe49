from __future__ import annotations

import pytest

from ingest.cli.demo import _settings


@pytest.mark.parametrize(
    ("pool", "address", "cpus"), [("ray", "10.0.0.1:6379", 1), ("ray", None, None), ("serial", "x:1", None)]
)
def test_on_a_cluster_a_worker_asks_for_one_cpu_and_not_for_a_share_of_the_driver_s_machine(
    monkeypatch, pool, address, cpus
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert _settings({"workers": 2, "pool": pool}).cpus == cpus
