"""A band is read once: bytes and tiles of X that all units of a plan take, as TileDB counts them, against one read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import tiledbsoma

from ingest import units
from ingest.fetch.soma import SomaFetcher
from ingest.settings import DataSettings, WorkSettings
from ingest.testing import datasets
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.datasets import make_dataset, open_serial_pool, write_census_index

BAND = 2048
N_BANDS = 29
N_CELLS = N_BANDS * BAND - 100
SLAB_BYTES = 104 << 20
"""Some five bands. TileDB packs entries into data tiles of its own, and the one at the seam of two slabs is read for
both: one of 255 in a Census' band, one of 18 here. With eight tiles of genes each is about two data tiles, so that any
cell of a band costs most of it, as it does in a Census."""
STORED, DECODED, TILES = "Context.VFS.read_byte_num", "read_unfiltered_byte_num", "num_tiles_read"


class Reading:
    """What TileDB read since it was last reset."""

    def __init__(self) -> None:
        self.calls = 0
        self.counted: Counter[str] = Counter()

    def add(self) -> None:
        self.calls += 1
        for context in tiledbsoma.tiledbsoma_stats_as_py():
            for name, number in context["counters"].items():
                self.counted[name if name == STORED else name.rsplit(".", 1)[-1]] += number

    def ratio(self, other: Reading, counter: str) -> float:
        return self.counted[counter] / other.counted[counter]


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=N_CELLS, n_genes=8 * 2048, mean_nnz_per_cell=200, duplicate_fraction=0)
    return build_census(tmp_path_factory.mktemp("census") / "mini", spec)


@pytest.fixture(scope="module")
def index(census, tmp_path_factory):
    return write_census_index(tmp_path_factory.mktemp("index") / "index.feather", census)


@pytest.fixture
def counting(monkeypatch):
    """Count what TileDB reads inside of `SomaFetcher.read`, and read in slabs of a few bands."""
    read, reading = SomaFetcher.read, Reading()

    def counted(self, rows):
        tiledbsoma.tiledbsoma_stats_reset()
        fetched = read(self, rows)
        reading.add()
        return fetched

    monkeypatch.setattr(SomaFetcher, "read", counted)
    monkeypatch.setattr(
        datasets,
        "open_serial_pool",
        lambda factory, size, *, memory_bytes: open_serial_pool(
            replace(factory, slab_bytes=SLAB_BYTES), size, memory_bytes=memory_bytes
        ),
    )
    tiledbsoma.tiledbsoma_stats_enable()
    yield reading
    tiledbsoma.tiledbsoma_stats_disable()


@pytest.fixture
def least(census):
    """One plain read of X, no code of ours."""
    reading = Reading()
    tiledbsoma.tiledbsoma_stats_enable()
    with tiledbsoma.open(f"{census.uri}/census_data/homo_sapiens/ms/RNA/X/raw") as array:
        tiledbsoma.tiledbsoma_stats_reset()
        n_entries = sum(len(table) for table in array.read().tables())
        reading.add()
    assert n_entries > N_CELLS * 150
    return reading


def ingest_all(tmp_path, index, cells_per_chunk):
    data = DataSettings(cells_per_chunk=cells_per_chunk, codec="none")
    made = make_dataset(f"{tmp_path}/dest", index, data=data, work=WorkSettings(workers=2))
    assert made.report.exit_code == 0
    return made


@pytest.mark.parametrize(("cells_per_chunk", "every"), [(100, 1), (700, 1), (700, 2), (5_000, 1)])
def test_a_plan_reads_each_band_once(tmp_path, index, counting, least, cells_per_chunk, every):
    if every > 1:
        chosen = tmp_path / "chosen.feather"
        pd.read_feather(index).iloc[::every].reset_index(drop=True).to_feather(chosen)
        index = chosen
    ingest_all(tmp_path, index, cells_per_chunk)
    assert counting.calls > 1  # in slabs, not in one go
    for counter in (STORED, DECODED, TILES):
        assert 1 <= counting.ratio(least, counter) <= 1.1, counter


def test_the_count_sees_units_cut_anywhere(tmp_path, index, counting, least, monkeypatch):
    monkeypatch.setattr(units, "OVERREAD", 1.0)
    monkeypatch.setattr(units, "_UNEVEN", 100.0)  # as if nothing but the number of units mattered
    ingest_all(tmp_path, index, 5_000)
    assert counting.ratio(least, TILES) > 1.15
