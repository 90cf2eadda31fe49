"""A band is read once: bytes and tiles of X that all units of a plan take, against what one plain read takes."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiledbsoma

from ingest import units
from ingest.fetch import soma
from ingest.fetch.soma import SomaFetcher
from ingest.fetch.tiles import decoding
from ingest.settings import DataSettings, WorkSettings
from ingest.testing import datasets
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.datasets import make_dataset, open_serial_pool, write_census_index, write_h5ad_index
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant
from ingest.window_reader import WindowReader

BAND = 2048
N_BANDS = 29
N_CELLS = N_BANDS * BAND - 100
SLAB_BYTES = 104 << 20
"""Some five bands. TileDB packs entries into data tiles of its own, and the one at the seam of two slabs is read for
both: one of 255 in a Census' band, one of 18 here. With eight tiles of genes each is about two data tiles, so that any
cell of a band costs most of it, as it does in a Census."""
FILES = ("a0.tdb", "d0.tdb", "d1.tdb")
STORED, DECODED, TILES = "Context.VFS.read_byte_num", "read_unfiltered_byte_num", "num_tiles_read"


class Reading:
    """What was read of X: as TileDB counts it, or as the operating system and the decompressor were asked for it."""

    def __init__(self) -> None:
        self.calls = 0
        self.counted: Counter[str] = Counter()

    def add_tiledb(self) -> None:
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


@pytest.fixture(params=["tiles", pytest.param("tiledb", marks=pytest.mark.long)])
def counting(request, monkeypatch):
    """Count what is read inside of `SomaFetcher.read`, and read in slabs of a few bands."""
    monkeypatch.setenv(soma.READER_VARIABLE, request.param)
    reading = Reading()
    monkeypatch.setattr(SomaFetcher, "read", counted_read(reading, SomaFetcher.read))
    if request.param == "tiles":
        count_bytes_and_tiles(reading, monkeypatch)
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


def counted_read(reading, read):
    def counted(self, rows):
        tiledbsoma.tiledbsoma_stats_reset()
        fetched = read(self, rows)
        reading.calls += 1
        reading.add_tiledb()
        return fetched

    return counted


def count_bytes_and_tiles(reading, monkeypatch):
    preadv, parts_of = os.preadv, decoding.parts_of

    def counted_preadv(descriptor, buffers, offset):
        done = preadv(descriptor, buffers, offset)
        if Path(f"/proc/self/fd/{descriptor}").resolve().name in FILES:
            reading.counted[STORED] += done
        return done

    def counted_parts(tile, pipeline):
        parts = parts_of(tile, pipeline)
        reading.counted[DECODED] += sum(size for *_, size in parts)
        reading.counted[TILES] += 1
        return parts

    monkeypatch.setattr(os, "preadv", counted_preadv)
    monkeypatch.setattr(decoding, "parts_of", counted_parts)


@pytest.fixture
def least(census, counting):  # noqa: ARG001  # which decides the way that is read in
    return read_plainly(census)


def read_plainly(census):
    """One plain read of X, no code of ours; as it is stored, for what is counted outside of TileDB."""
    reading = Reading()
    place = Path(f"{census.path}/census_data/homo_sapiens/ms/RNA/X/raw")
    with tiledbsoma.open(str(place)) as array:
        tiledbsoma.tiledbsoma_stats_reset()
        n_entries = sum(len(table) for table in array.read().tables())
        reading.add_tiledb()
    assert n_entries > census.n_cells * 150
    if os.environ[soma.READER_VARIABLE] == "tiles":
        files = [file for name in FILES for file in place.glob(f"__fragments/*/{name}")]
        reading.counted[STORED] = sum(file.stat().st_size for file in files)
        reading.counted[DECODED] = 20 * n_entries
    return reading


def ingest_all(tmp_path, index, cells_per_chunk, **order):
    data = DataSettings(cells_per_chunk=cells_per_chunk, codec="none", **order)
    made = make_dataset(f"{tmp_path}/dest", index, data=data, work=WorkSettings(workers=2))
    assert made.report.exit_code == 0
    return made


@pytest.mark.parametrize(
    ("cells_per_chunk", "every"),
    [*(pytest.param(*case, marks=pytest.mark.long) for case in ((100, 1), (700, 2), (700, 1))), (5_000, 1)],
)
def test_a_plan_reads_each_band_once(tmp_path, index, counting, least, cells_per_chunk, every):
    if every > 1:
        chosen = tmp_path / "chosen.feather"
        pd.read_feather(index).iloc[::every].reset_index(drop=True).to_feather(chosen)
        index = chosen
    ingest_all(tmp_path, index, cells_per_chunk)
    assert counting.calls > 1  # in slabs, not in one go
    for counter in (STORED, DECODED, TILES):
        assert 1 <= counting.ratio(least, counter) <= 1.1, counter


@pytest.fixture(scope="module")
def dense_census(tmp_path_factory):
    """Bands of 75 data tiles, of 255 in a Census: in window order bands stand alone, each with a seam at its ends."""
    spec = CensusSpec(n_cells=14 * BAND, n_genes=8 * 2048, mean_nnz_per_cell=800, duplicate_fraction=0)
    return build_census(tmp_path_factory.mktemp("census") / "dense", spec)


@pytest.mark.parametrize(
    ("cells_per_chunk", "window", "every"),
    [
        (700, 7_000, 2),
        *(pytest.param(*case, marks=pytest.mark.long) for case in ((100, 20_000, 1), (5_000, 10_000, 1))),
    ],
)
def test_so_does_one_in_window_order(tmp_path, dense_census, counting, cells_per_chunk, window, every):
    index = write_census_index(tmp_path / "index.feather", dense_census)
    if every > 1:
        pd.read_feather(index).iloc[::every].reset_index(drop=True).to_feather(index)
    least = read_plainly(dense_census)
    ingest_all(tmp_path, index, cells_per_chunk, shuffle="window", shuffle_window=window)
    # TileDB reads 20 MB at once (vfs.min_batch_size): of bands smaller than that, their neighbours as well.
    stored = (STORED,) if os.environ[soma.READER_VARIABLE] == "tiles" else ()
    for counter in (*stored, DECODED, TILES):
        assert 1 <= counting.ratio(least, counter) <= 1.1, counter


def test_the_count_sees_a_band_of_two_windows(tmp_path, index, counting, least, monkeypatch):
    monkeypatch.setattr(WindowReader, "_sharing", lambda *_: np.empty(0, np.int64))
    ingest_all(tmp_path, index, 1_000, shuffle="window", shuffle_window=1_000)
    assert counting.ratio(least, TILES) > 1.5


def test_the_count_sees_units_cut_anywhere(tmp_path, index, counting, least, monkeypatch):
    monkeypatch.setattr(units, "OVERREAD", 1.0)
    monkeypatch.setattr(units, "_UNEVEN", 100.0)  # as if nothing but the number of units mattered
    ingest_all(tmp_path, index, 5_000)
    assert counting.ratio(least, TILES) > 1.15


def test_files_are_read_once_in_window_order(tmp_path):
    n_cells = 1_500
    files = [
        write_h5ad_variant(
            tmp_path / f"s{at}.h5ad",
            sample_counts(n_cells, 2_000, seed=at),
            obs=sample_obs(n_cells, seed=at)[[]],
            compression="gzip",
        )
        for at in range(10)
    ]
    index = write_h5ad_index(tmp_path / "i.feather", files)
    in_order, mixed = (
        make_dataset(
            str(tmp_path / name),
            index,
            data=DataSettings(cells_per_chunk=500, **order),
            work=WorkSettings(workers=1),
        ).report.driven.totals.bytes_read
        for name, order in (("order", {}), ("mixed", {"shuffle": "window", "shuffle_window": 5_000}))
    )
    assert mixed <= 1.1 * in_order
