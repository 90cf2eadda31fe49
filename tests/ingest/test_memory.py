from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ingest.encode.sizes import FileKind
from ingest.errors import ConfigError
from ingest.memory import MIB, plan_memory
from ingest.profile import Profile


def profile_of(chunk_nnz, band_nnz=0):
    one = np.zeros(1, np.int64)
    return Profile(one, one, np.array([chunk_nnz]), np.zeros(1), np.ones(1), band_nnz, np.zeros(1, bool))


def plan(chunk_nnz, band_nnz=0, *, cells=25_000, limit=3 << 29, value_bytes=4, **more):
    profile = profile_of(chunk_nnz, band_nnz)
    return plan_memory(profile, cells_per_chunk=cells, value_bytes=value_bytes, limit=limit, **more)


SIZES = {"chunk_nnz": st.integers(0, 10**9), "band_nnz": st.integers(0, 10**8), "cells": st.integers(1, 10**6)}


@given(**SIZES, limit=st.integers(1, 1 << 36))
def test_what_is_planned_fits_or_the_number_that_would_is_told(chunk_nnz, band_nnz, cells, limit):
    refused = None
    try:
        memory = plan(chunk_nnz, band_nnz, cells=cells, limit=limit)
    except ConfigError as error:
        refused = error
    if refused is None:
        assert memory.projected <= limit
        assert memory.slab > 0
        return
    assert refused.kind == "memory"
    enough = int(re.search(r"--memory (\d+)M", refused.hint)[1]) * MIB
    assert enough > limit
    assert plan(chunk_nnz, band_nnz, cells=cells, limit=enough).projected <= enough


@given(**SIZES, more=st.integers(0, 10**8))
def test_more_to_hold_needs_more(chunk_nnz, band_nnz, cells, more):
    room = 1 << 42
    small, large = (
        plan(chunk_nnz, band_nnz, cells=cells, limit=room),
        plan(chunk_nnz + more, band_nnz, cells=cells, limit=room),
    )
    assert large.chunk >= small.chunk
    assert large.projected >= small.projected


@given(st.integers(10_000, 10**6), st.integers(500, 4000))
def test_the_chunk_size_that_is_offered_fits(cells, nnz_per_cell):
    try:
        plan(cells * nnz_per_cell, cells=cells, limit=1 << 30)
    except ConfigError as error:
        found = re.search(r"-c (\d+)", error.hint)
        assume(found is not None)
        fits = int(found[1])
        assert 0 < fits < cells
        plan(fits * nnz_per_cell, cells=fits, limit=1 << 30)


def window_plan(window_nnz, *, window_cells=50_000, cells=25_000, limit=3 << 29, **more):
    profile = replace(profile_of(10**7), largest_window_nnz=window_nnz)
    return plan_memory(
        profile, cells_per_chunk=cells, value_bytes=4, limit=limit, window_cells=window_cells, n_genes=60_530, **more
    )


@given(st.integers(0, 10**9), st.integers(1, 8), st.integers(1 << 29, 1 << 34))
def test_a_window_fits_or_what_would_is_told(nnz_per_chunk, chunks, limit):
    refused = None
    try:
        memory = window_plan(nnz_per_chunk * chunks, window_cells=25_000 * chunks, limit=limit)
    except ConfigError as error:
        refused = error
    if refused is None:
        assert memory.projected <= limit
        assert memory.window >= nnz_per_chunk * chunks * 4
        return
    assert refused.kind == "memory"
    enough = int(re.search(r"--memory (\d+)M", refused.hint)[1]) * MIB
    assert enough > limit
    assert window_plan(nnz_per_chunk * chunks, window_cells=25_000 * chunks, limit=enough).projected <= enough
    if found := re.search(r"--shuffle-window (\d+)", refused.hint):
        fits = int(found[1]) // 25_000
        assert 0 < fits < chunks
        window_plan(nnz_per_chunk * fits, window_cells=25_000 * fits, limit=limit)


def test_the_usual_window_fits_into_the_usual_memory():
    profile = replace(profile_of(25_000 * 2440, 2048 * 2440), largest_window_nnz=50_000 * 2440)
    memory = plan_memory(
        profile, cells_per_chunk=25_000, value_bytes=4, limit=3 << 29, window_cells=50_000, n_genes=60_530
    )
    assert memory.window >= 50_000 * 2440 * 4


def test_a_window_costs_what_its_entries_do():
    usual = window_plan(10**7).window
    assert window_plan(10**7, kind=FileKind("h5ad", "deflate", "float32", True)).window > 2 * usual
    assert usual > 10**7 * 4, "what is left is for reading ahead"
    assert plan(10**7).window == 0


@pytest.mark.parametrize("value_bytes", [2, 4, 8])
def test_wider_values_need_more(value_bytes):
    assert plan(10**7, value_bytes=value_bytes).chunk <= plan(10**7, value_bytes=value_bytes + 1).chunk


DENSE = {"cells": 10_000, "n_genes": 36_601}


def test_a_dense_chunk_takes_what_is_compressed_of_it():
    sparse = plan(24_400_000, cells=10_000)
    dense = plan(24_400_000, **DENSE, kind=FileKind("h5", "deflate", "int16"))
    assert sparse.chunk < dense.chunk < sparse.chunk + (4 << 20)
    with pytest.raises(ConfigError, match="needs"):
        plan(24_400_000, **DENSE, kind=FileKind("h5", "none", "int16"))
    whole = plan(24_400_000, **DENSE, kind=FileKind("h5", "none", "int16"), limit=1 << 33)
    assert whole.chunk >= 2 * 10_000 * 36_601 * 4, "a count may widen it to int32"


@given(
    st.sampled_from(["h5", "h5ad"]),
    st.sampled_from(["deflate", "zstd", "lz4", "none"]),
    st.integers(0, 10**7),
    st.integers(1, 10**5),
)
def test_no_kind_of_file_is_expected_to_outgrow_its_bound(form, codec, nnz, n_genes):
    kind = FileKind(form, codec, "int32")
    n_cells = nnz // n_genes + 1
    assert kind.expected_bytes(nnz, n_cells, n_genes) <= kind.most_bytes(nnz, n_cells, n_genes) + 1
