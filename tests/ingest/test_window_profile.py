"""What the chunks of windows ask of their sources: bands counted once for windows that share them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.genes import Genes
from ingest.source import Source
from ingest.survey.model import SourceSurvey
from ingest.units import cut_units, read_bytes
from ingest.window_order import WindowOrder
from ingest.window_profile import WindowProfileBuilder

BAND = 10


def survey(layout="soma", band_rows=BAND, n_obs=1000, stored_bytes=1000):
    return SourceSurvey(
        source=Source("h5ad", "file:///a.h5ad", "1"),
        n_obs=n_obs,
        layout=layout,
        matrix="X",
        dtype="float32",
        nnz=n_obs * 5,
        band_rows=band_rows,
        stored_bytes=stored_bytes,
        names_unique=True,
        genes=Genes((), (), ()),
        presence={},
        integer=True,
        datasets={},
    )


def planned(n_cells, window, seed=0):
    """Rows of one Census, all of its cells, in window order."""
    order = WindowOrder(window, seed)
    starts = np.arange(0, n_cells, BAND)
    places = order.run_places(np.diff(np.append(starts, n_cells)))
    mixed = np.empty(n_cells, np.int64)
    for start, place in zip(starts, places, strict=True):
        rows = np.arange(start, min(start + BAND, n_cells))
        mixed[place : place + len(rows)] = rows
    parts = [order.mixed(low, min(low + window, n_cells)) for low in range(0, n_cells, window)]
    return mixed[np.concatenate(parts)]


def profile(rows, size, window, surveys=None, codes=None, batches=7, nnz=None, uncut_bytes=1 << 40):
    builder = WindowProfileBuilder(surveys or [survey()], len(rows), size, window, uncut_bytes=uncut_bytes, n_genes=100)
    codes = np.zeros(len(rows), np.int32) if codes is None else codes
    nnz = np.full(len(rows), 5) if nnz is None else nnz
    for part in np.array_split(np.arange(len(rows)), batches):
        builder.add(codes[part], rows[part], pa.table({"nnz": nnz[part]}))
    return builder.finish()


@given(st.integers(1, 400), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(1, 50))
def test_a_profile_is_that_of_windows(n_cells, size, chunks, seed, batches):
    window = size * chunks
    rows = planned(n_cells, window, seed)
    nnz = rows % 7
    found = profile(rows, size, window, batches=batches, nnz=nnz)
    bands = [set((rows[low : low + window] // BAND).tolist()) for low in range(0, n_cells, window)]
    ordinals, first, last = {}, [], []
    for window_bands in bands:
        shared = [band for band in window_bands if band in ordinals]
        first.append(len(ordinals) - len(shared))  # a band that the next window shares is a window's last
        for band in window_bands - set(shared):
            ordinals[band] = len(ordinals)
        last.append(len(ordinals) - 1)
    window_of = np.arange(-(-n_cells // size)) // chunks
    assert found.first_band.tolist() == [first[at] for at in window_of]
    assert found.last_band.tolist() == [last[at] for at in window_of]
    assert found.nnz.tolist() == [int(nnz[low : low + size].sum()) for low in range(0, n_cells, size)]
    assert found.largest_window_nnz == max(int(nnz[low : low + window].sum()) for low in range(0, n_cells, window))
    assert found.uncut.tolist() == [bool(at % chunks) for at in range(len(window_of))]
    # Ten bytes a band; what two windows share counts once for whoever makes both.
    assert (found.read_to - found.read_from).tolist() == [10.0 * len(bands[at]) for at in window_of]
    assert found.read_to[-1] == 10 * len(ordinals)


@given(st.integers(1, 6), st.integers(20, 3000), st.integers(1, 30), st.integers(1, 20))
def test_units_are_whole_windows_and_split_a_tenth_of_the_bands(workers, n_cells, size, chunks):
    found = profile(planned(n_cells, size * chunks), size, size * chunks)
    units = cut_units(found, range(found.n_chunks), workers=workers)
    assert [chunk for unit in units for chunk in unit.chunks] == list(range(found.n_chunks))
    assert all(unit.chunks[0] % chunks == 0 for unit in units)
    read, least = read_bytes(found, units)
    assert read <= 1.1 * least + 1e-6


def test_a_band_of_two_windows_is_read_at_once():
    rows = np.array([0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17])  # windows of six: band 1 is in both
    found = profile(rows, 3, 6)
    assert found.largest_band_nnz == 8 * 5
    assert found.largest_window_nnz == 6 * 5


def test_windows_that_share_a_large_csc_file_have_one_worker():
    surveys = [
        survey("csc", 1, stored_bytes=5000),
        survey("csc", 1, stored_bytes=5000),
        survey("csr", 1, stored_bytes=5000),
    ]
    codes = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2], np.int32)  # windows of four
    found = profile(np.arange(12), 2, 4, surveys, codes, uncut_bytes=4000)
    assert found.uncut.tolist() == [False, True, True, True, False, True]
    small = [replace(one, stored_bytes=10) for one in surveys]
    assert profile(np.arange(12), 2, 4, small, codes, uncut_bytes=4000).uncut.tolist() == [False, True] * 3


def test_all_cells_must_have_come():
    with pytest.raises(ValueError, match="0 of 3 cells"):
        WindowProfileBuilder([survey()], 3, 2, 4, uncut_bytes=1, n_genes=3).finish()
