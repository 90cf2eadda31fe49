"""Metrics as Prometheus would have them: scraped from the agent of a real Ray, held against the run's own summary."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from actors.metrics import METRICS, RunMetrics
from actors.pool import RayPool
from ingest.cli.main import main
from ingest.cli.meter import Meter
from ingest.driver import drive
from ingest.ledger.ledger import Ledger
from ingest.pool import Failure
from ingest.run_events import Moved, Observed, RunBegan
from ingest.schedule import Policy, Scheduler
from ingest.store.open import open_store
from ingest.testing.datasets import SilentObserver, write_h5ad_index, write_sources
from ingest.testing.pool_conformance import eventually
from ingest.testing.scripted_worker import CELLS_PER_CHUNK, ScriptedFactory, Step

pytestmark = pytest.mark.usefixtures("local_ray")

EXPORTED = {spec.exported: spec for spec in METRICS}
OF_RAY = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId", "Name"}


def scrape(dest):
    """Return (metric, value of its own label or None) -> value, of one DEST."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as reply:  # http, of this machine
        text = reply.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("dest") == dest:
                spec = EXPORTED[sample.name]
                own = {name for name in sample.labels if name not in OF_RAY and not name.startswith("otel_")}
                assert own == {"dest", *spec.labels}
                found[sample.name, *(sample.labels[name] for name in spec.labels)] = sample.value
    return found


def wait_for(dest, wanted):
    """Scrape until metrics have the values that they must come to; return that scrape."""
    found = {}

    def look():
        time.sleep(0.2)
        found.clear()
        found.update(scrape(dest))

    eventually(lambda: wanted.items() <= found.items(), look)
    return found


def by_label(found, metric):
    return {label[0]: value for (name, *label), value in found.items() if name == metric}


@dataclasses.dataclass(frozen=True)
class Ran:
    dest: Path
    facts: dict
    log: list[dict]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, local_ray):
    """A run of 60 cells in nine chunks on two workers, its log in JSON."""
    assert local_ray.is_local
    folder, out, err = tmp_path_factory.mktemp("ran"), io.StringIO(), io.StringIO()
    index = write_h5ad_index(folder / "index.feather", write_sources(folder / "sources"))
    words = ["run", str(folder / "dest"), "--index", str(index), "-c", "7", "-d", "2", "--json", "--log-format", "json"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0, err.getvalue()
    lines = [json.loads(line) for line in err.getvalue().splitlines()]
    return Ran(folder / "dest", json.loads(out.getvalue()), lines)


def test_a_run_counts_what_its_summary_says(ran):
    facts = ran.facts
    last = {("ray_cell_ingest_cells_total",): facts["cells_this_run"]}
    found = wait_for(str(ran.dest), last)
    (end,) = (json.loads(path.read_bytes()) for path in (ran.dest / "_ingest/runs").rglob("end.json"))
    assert found["ray_cell_ingest_written_bytes_total",] == end["bytes_written"] == facts["bytes"]
    assert found["ray_cell_ingest_read_bytes_total",] == end["bytes_read"]
    seconds = by_label(found, "ray_cell_ingest_stage_seconds_total")
    assert seconds == pytest.approx({stage: value for stage, value in facts["seconds_by_stage"].items() if value})
    assert by_label(found, "ray_cell_ingest_units_ended_total").keys() == {"done"}
    assert not by_label(found, "ray_cell_ingest_failures_total")


def test_workers_log_json_where_ray_keeps_it(ran):
    """Chunk by chunk, with the unit and the attempt that its receipt names; nothing else is on their stderr."""
    run = ran.facts["run"]
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    texts = [path.read_text() for path in folder.glob("worker-*.err")]
    said = [line for text in texts if run in text for line in text.splitlines()]
    lines = [json.loads(line) for line in said if not line.startswith(":")]  # Ray marks its files, `:job_id:…`
    ledger = Ledger(open_store(str(ran.dest)))
    attempts = {chunk.chunk: receipt.attempt for receipt in ledger.receipts() for chunk in receipt.chunks}
    committed = [line for line in lines if line["event"] == "chunk-committed"]
    assert {line["chunk"]: line["attempt"] for line in committed} == attempts
    assert all(line["attempt"] == f"{run}-{line['unit']:07d}" for line in committed)
    assert {line["run"] for line in lines} == {run}
    assert all(line["pid"] and line["host"] for line in lines)
    driver = {line["attempt"] for line in ran.log if line["event"] == "unit-settled"}
    assert driver == {line["attempt"] for line in committed}
    assert not any(line["event"] == "chunk-committed" for line in ran.log), "workers' lines stay with them"
    assert ran.log[-1]["event"] == "summary"


class NoLedger:
    def done(self):
        return set()

    def done_among(self, _chunks):
        return set()

    def record_failures(self, _attempt, _failures):
        pass


def test_counters_go_on_over_deaths_and_replacements(tmp_path):
    """Of six chunks two kill their worker once, one does so always, one meets trouble that passes."""
    slow = Failure((5,), "transient", "slow-store", "m")
    scripts = {
        1: (Step("kill"), Step()),
        3: (Step("exit"), Step()),
        4: (Step("kill"),),
        5: (Step("fail", failure=slow), Step()),
    }
    dest = f"memory://{tmp_path.name}"
    began = RunBegan("r", "run", dest, n_chunks=8, n_kept=2, n_units=6, workers=2, memory_bytes=1 << 30)
    pool = RayPool(ScriptedFactory(str(tmp_path), scripts), 2, num_cpus=0.5)
    metrics = RunMetrics(began, pool)
    units = Scheduler([(n,) for n in range(6)], run_id="r", policy=Policy(blamed=2), draw=lambda: 0.0)
    try:
        driven = drive(
            units,
            pool,
            NoLedger(),
            Observed(SilentObserver(), [metrics]),
            stop_requested=lambda: False,
            deadline_s=lambda _: 300.0,
        )
        assert list(driven.quarantined) == [4]
        metrics.close()
        last = {("ray_cell_ingest_cells_total",): driven.totals.n_cells, ("ray_cell_ingest_workers", "wanted"): 0}
        found = wait_for(dest, last)
    finally:
        pool.close()
    assert driven.totals.n_cells == 5 * CELLS_PER_CHUNK
    assert by_label(found, "ray_cell_ingest_chunks") == {"done": 7, "missing": 0, "quarantined": 1, "gave_up": 0}
    assert by_label(found, "ray_cell_ingest_workers") == {"wanted": 0, "alive": 0, "busy": 0}
    assert by_label(found, "ray_cell_ingest_units") == {"waiting": 0, "in_flight": 0}
    assert found["ray_cell_ingest_worker_memory_limit_bytes",] == 1 << 30
    assert by_label(found, "ray_cell_ingest_units_lost_total") == {"worker-died": 4}
    assert by_label(found, "ray_cell_ingest_units_ended_total") == {"done": 5, "failed": 1, "lost": 4}
    assert by_label(found, "ray_cell_ingest_failures_total") == {"worker-died": 4, "slow-store": 1}
    retries = by_label(found, "ray_cell_ingest_retries_total")
    assert retries == {"worker-died": 3, "slow-store": 1}
    assert sum(retries.values()) == driven.totals.retries


class Instrument:
    """A metric that keeps what is recorded, as strict as Ray's."""

    def __init__(self, spec):
        self.spec, self.values = spec, []

    def inc(self, by, labels):
        assert self.spec.kind == "counter"
        assert by > 0
        assert labels.keys() == set(self.spec.labels)
        self.values.append(by)

    def set(self, value, labels):
        assert self.spec.kind == "gauge"
        assert labels.keys() == set(self.spec.labels)
        self.values.append(value)


class Pool:
    size = n_alive = 2


def moved(n_cells, **more):
    zeros = dict.fromkeys((field.name for field in dataclasses.fields(Moved)), 0)
    return Moved(**{**zeros, "n_cells": n_cells, "rss_bytes": (5, 7), **more})


@pytest.fixture
def made(monkeypatch):
    instruments = {}
    monkeypatch.setattr(
        "actors.metrics._instrument", lambda spec, _: instruments.setdefault(spec.name, Instrument(spec))
    )
    return instruments


BEGAN = RunBegan("r", "run", "d", 8, 2, 6, 2, 99)


def test_a_counter_never_goes_back(made):
    metrics = RunMetrics(BEGAN, Pool())
    for n_cells in (5, 5, 3, 9):
        metrics.hear(moved(n_cells))
    assert made["cell_ingest_cells"].values == [5, 4]


def test_gauges_are_set_once_a_second_however_often_the_run_moves(made):
    times = iter([0.0, 0.0, 0.3, 0.9, 1.1, 1.1, 1.5])
    metrics = RunMetrics(BEGAN, Pool(), clock=lambda: next(times))
    for _ in range(5):
        metrics.hear(moved(1))
    assert made["cell_ingest_worker_rss_max_bytes"].values == [7, 7]
    assert made["cell_ingest_workers_rss_bytes"].values == [12, 12]


def test_metrics_that_cannot_be_made_cost_the_run_nothing(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no agent")

    monkeypatch.setattr("actors.metrics.RunMetrics", broken)
    meter, inside = Meter(), []
    meter.hear(BEGAN)
    with meter.reading(Pool()):
        meter.hear(moved(1))
        inside.append(True)
    assert inside
    assert "no agent" in caplog.text


def test_metrics_that_break_at_the_end_cost_the_run_nothing(made, monkeypatch):
    meter = Meter()
    meter.hear(BEGAN)
    monkeypatch.setattr(Instrument, "set", lambda *_: 1 / 0)
    with meter.reading(Pool()):
        pass
    assert made


def test_names_and_labels_are_those_that_prometheus_wants():
    for spec in METRICS:
        assert re.fullmatch(r"cell_ingest_[a-z_]+", spec.name)
        assert not spec.name.endswith("_total"), "Ray adds it"
        assert not {"unit", "chunk", "source", "worker", "attempt", "run"} & set(spec.labels)
        assert ("bytes" in spec.about.lower() or "memory" in spec.about or "may hold" in spec.about) <= (
            "bytes" in spec.name
        )
