"""A conversion on real actors: workers die with parts half said, and the archive is that of a quiet run."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from actors.pool import RayPool
from ingest.load.memmap.convert import plan as plan_module
from ingest.load.memmap.convert.api import create_archive
from ingest.load.memmap.convert.opening import ReadOptions
from ingest.load.memmap.convert.run import run_conversion
from ingest.load.memmap.convert.survey import draft_plan
from ingest.settings import DataSettings
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.scripted_convert import DyingFactory

pytestmark = pytest.mark.usefixtures("local_ray")


class Watching:
    def __init__(self):
        self.troubles, self.rows = [], []

    def began(self, plan, n_done, n_workers):
        assert (len(plan.parts), n_done, n_workers) == (20, 0, 2)

    def reached(self, n_rows):
        self.rows.append(n_rows)

    def troubled(self, failure, retried):
        self.troubles.append((failure.kind, retried))

    def finishing(self):
        pass


def test_workers_die_and_the_archive_is_that_of_a_quiet_run(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module.join_cuts, "__defaults__", (1,))
    write_h5ad_variant(tmp_path / "cells.h5ad", sample_counts(200, 90, seed=4))
    index = write_h5ad_index(tmp_path / "index.feather", [tmp_path / "cells.h5ad"])
    make_dataset(str(tmp_path / "dest"), index, data=DataSettings(cells_per_chunk=10))
    quiet = create_archive(tmp_path / "dest", tmp_path / "quiet", pool="serial")

    @contextmanager
    def open_pool(factory, size, **_):
        pool = RayPool(DyingFactory(factory, str(tmp_path), (3, 11)), size, num_cpus=0.5)
        try:
            yield pool
        finally:
            pool.close()

    watching = Watching()
    plan = draft_plan([tmp_path / "dest"], ReadOptions())
    made = run_conversion(plan, tmp_path / "made", ReadOptions(), open_pool, watching, workers=2)
    assert sorted(kind for kind, _ in watching.troubles) == ["worker-died", "worker-died"]
    assert (made.finished, made.rows, watching.rows[-1]) == (True, 200, 200)
    wrote = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("wrote-*"))
    assert wrote == list(range(20)), "a part whose receipt its worker left is not written again"
    for path in quiet.rglob("*"):
        if path.is_file():
            assert (made.path / path.relative_to(quiet)).read_bytes() == path.read_bytes(), path
