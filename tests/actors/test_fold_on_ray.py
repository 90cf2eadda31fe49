"""A fold on real actors: workers are killed half-way through a chunk, and every chunk still counts once."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from actors.pool import RayPool
from ingest.errors import IngestError
from ingest.finish import read_chunks
from ingest.folding import fold_chunks
from ingest.hvg.document import hvg_document, hvg_identity
from ingest.hvg.find import check_request, find_hvgs, read_data
from ingest.hvg.folds import CountSums
from ingest.hvg.parameters import HvgParameters
from ingest.qc.folds import CellsAndGenes, QcSums
from ingest.qc.table import CellTable
from ingest.settings import DataSettings, WorkSettings
from ingest.testing.datasets import make_dataset, open_serial_pool, write_h5ad_index
from ingest.testing.h5ad_files import write_h5ad_variant
from ingest.testing.hvg_data import varied_counts
from ingest.testing.scripted_fold import ChunkList, Scripted

if TYPE_CHECKING:
    from ingest.opened import OpenPlan

pytestmark = pytest.mark.usefixtures("local_ray")

SETTINGS = WorkSettings(workers=2)
N_CHUNKS, N_CELLS = 20, 200


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> OpenPlan:
    folder = tmp_path_factory.mktemp("fold")
    write_h5ad_variant(folder / "cells.h5ad", varied_counts(N_CELLS, 150, seed=4))
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    return make_dataset(str(folder / "dest"), index, data=DataSettings(cells_per_chunk=10)).opened


@contextmanager
def open_ray_pool(factory, size, *, memory_bytes):
    del memory_bytes  # a scheduler's matter
    pool = RayPool(factory, size, num_cpus=0.5)
    try:
        yield pool
    finally:
        pool.close()


class Watching:
    def __init__(self):
        self.troubles = []

    def reached(self, n_cells):
        assert n_cells <= N_CELLS

    def troubled(self, failure, retried):
        self.troubles.append((failure.kind, retried))


def fold(opened, what, watching=None, open_pool=open_ray_pool):
    chunks, _ = read_chunks(opened)
    return fold_chunks(opened, what, chunks, SETTINGS, open_pool, watching or Watching())


def test_killed_workers_chunks_are_done_again_and_count_once(opened, tmp_path):
    watching = Watching()
    scripted = Scripted(ChunkList(), str(tmp_path), {3: "kill", 11: "kill", 17: "raise"})
    assert fold(opened, scripted, watching) == [(chunk, 10) for chunk in range(N_CHUNKS)]
    kinds = [kind for kind, _ in watching.troubles]
    assert sorted(kinds) == ["unforeseen", "worker-died", "worker-died"]
    assert all(retried for _, retried in watching.troubles)


def test_sums_are_those_of_a_quiet_run_to_the_last_bit(opened, tmp_path):
    scripted = Scripted(CountSums("cell_type"), str(tmp_path), {2: "kill", 13: "kill"})
    troubled = fold(opened, scripted)
    quiet = fold(opened, CountSums("cell_type"), open_pool=open_serial_pool)
    assert sorted(troubled.labels) == sorted(quiet.labels)
    for label in quiet.labels:
        ours, theirs = troubled.labels.index(label), quiet.labels.index(label)
        assert (troubled.limbs[ours] == quiet.limbs[theirs]).all()
        assert troubled.n_cells[ours] == quiet.n_cells[theirs]


def test_cells_of_a_troubled_run_are_those_of_a_quiet_one(opened, tmp_path):
    chunks, _ = read_chunks(opened)
    what = CellsAndGenes(np.arange(150) < 20)
    tables = []
    for name, deeds, open_pool in (
        ("troubled", {2: "kill", 13: "kill", 19: "raise"}, open_ray_pool),
        ("quiet", {}, open_serial_pool),
    ):
        (tmp_path / name).mkdir()
        table = CellTable(tmp_path / f"{name}.bin", chunks)
        scripted = Scripted(what, str(tmp_path / name), deeds)
        state = QcSums(what.begin(opened).genes, table=table)
        found = fold_chunks(opened, scripted, chunks, SETTINGS, open_pool, Watching(), state=state)
        assert found is state
        assert not state.cells
        tables.append((table.rows(0, N_CELLS), state.genes.limbs[0]))
    assert (tables[0][0] == tables[1][0]).all()
    assert (tables[0][0]["total"] > 0).any()
    assert (tables[0][1] == tables[1][1]).all()


def test_a_chunk_that_always_kills_ends_the_fold_and_is_named(opened, tmp_path):
    scripted = Scripted(ChunkList(), str(tmp_path), {7: "kill always"})
    with pytest.raises(IngestError, match="died") as caught:
        fold(opened, scripted)
    assert (caught.value.kind, caught.value.chunk) == ("worker-died", 7)


@pytest.mark.parametrize(
    "flavour", ["dispersion", *(pytest.param(name, marks=pytest.mark.long) for name in ("cell_ranger", "seurat_v3"))]
)
def test_the_record_is_the_same_on_ray_and_in_process(opened, flavour):
    data = read_data(opened)
    parameters = HvgParameters.of(flavour, n_hvgs=30, batch_key="cell_type" if flavour == "dispersion" else None)
    request = check_request(data, parameters, memory_bytes=1 << 30)
    records = [
        hvg_document(
            hvg_identity(data, parameters),
            find_hvgs(request, SETTINGS, open_pool, lambda _word: Watching()),
            opened.genes,
            None,
        )
        for open_pool in (open_ray_pool, open_serial_pool)
    ]
    assert records[0] == records[1]
    assert len(json.loads(records[0])["hvg_names"]) == 30
