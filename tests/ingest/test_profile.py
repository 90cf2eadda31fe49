"""What chunks ask of their sources, held against counting band by band in plain Python."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.profile import ProfileBuilder


def survey(layout="soma", band_rows=4, n_obs=100, nnz=1000, stored_bytes=8000):
    return SimpleNamespace(layout=layout, band_rows=band_rows, n_obs=n_obs, nnz=nnz, stored_bytes=stored_bytes)


def cells_of(codes, coordinates, nnz=None):
    table = pa.table({"row": coordinates} if nnz is None else {"row": coordinates, "nnz": nnz})
    return SimpleNamespace(codes=np.array(codes, np.int32), coordinates=np.array(coordinates, np.int64), table=table)


def profile_of(cells, surveys, size, edges=()):
    """Build a profile from batches that end at `edges`."""
    n_cells = len(cells.codes)
    builder = ProfileBuilder(surveys, n_cells, size, uncut_bytes=4000, n_genes=30)
    for low, high in pairwise([0, *sorted(edges), n_cells]):
        builder.add(cells.codes[low:high], cells.coordinates[low:high], cells.table.slice(low, high - low))
    return builder.finish()


@st.composite
def plans(draw):
    """Draw cells of up to three sources, a chunk size, and where batches end."""
    surveys = [
        survey(
            draw(st.sampled_from(["soma", "csr", "csc"])),
            draw(st.sampled_from([1, 2, 5, 50])),
            stored_bytes=draw(st.integers(1, 9000)),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    codes, coordinates = [], []
    for number in range(len(surveys)):
        rows = draw(st.lists(st.integers(0, 99), min_size=1, max_size=60, unique=True))
        codes += [number] * len(rows)
        coordinates += sorted(rows)
    nnz = draw(st.none() | st.lists(st.integers(0, 50), min_size=len(codes), max_size=len(codes)))
    cells = cells_of(codes, coordinates, nnz)
    edges = draw(st.lists(st.integers(0, len(codes)), max_size=6))
    return cells, surveys, draw(st.integers(1, 25)), edges


@given(plans())
def test_the_profile_is_a_count_of_bands(plan):
    cells, surveys, size, edges = plan
    profile = profile_of(cells, surveys, size, edges)
    bands = [(int(c), int(x) // surveys[c].band_rows) for c, x in zip(cells.codes, cells.coordinates, strict=True)]
    ordinal = {band: at for at, band in enumerate(dict.fromkeys(bands))}
    known = cells.table["nnz"].to_pylist() if "nnz" in cells.table.column_names else [10] * len(bands)
    for chunk, start in enumerate(range(0, len(bands), size)):
        mine = bands[start : start + size]
        assert profile.first_band[chunk] == ordinal[mine[0]]
        assert profile.last_band[chunk] == ordinal[mine[-1]]
        assert profile.nnz[chunk] == sum(min(value, 30) for value in known[start : start + size])
        before = cells.codes[start - 1] if start else -1
        large = surveys[cells.codes[start]].layout == "csc" and surveys[cells.codes[start]].stored_bytes > 4000
        assert profile.uncut[chunk] == (before == cells.codes[start] and large)
    per_band = dict.fromkeys(ordinal, 0)
    for band, value in zip(bands, known, strict=True):
        per_band[band] += min(value, 30)
    assert profile.largest_band_nnz == max(per_band.values())
    assert profile.n_chunks == -(-len(bands) // size)
    costs = [surveys[c].stored_bytes / 100 * min(surveys[c].band_rows, 100) for c, _ in ordinal]
    before = np.concatenate([[0.0], np.cumsum(costs)])
    np.testing.assert_allclose(profile.read_from, before[profile.first_band], atol=1e-6)
    np.testing.assert_allclose(profile.read_to, before[profile.last_band + 1], atol=1e-6)
    whole = profile_of(cells, surveys, size)
    for name in ("first_band", "last_band", "nnz", "read_from", "read_to", "uncut"):
        assert getattr(profile, name).tolist() == getattr(whole, name).tolist(), name


def test_unknown_nnz_is_the_sources_mean():
    profile = profile_of(cells_of([0, 0, 0], [1, 2, 3], [5, -1, 7]), [survey()], 3)
    assert profile.nnz.tolist() == [5 + 10 + 7]


def test_cells_that_are_missing_are_said():
    builder = ProfileBuilder([survey()], 3, 2, uncut_bytes=1, n_genes=30)
    builder.add(np.zeros(2, np.int32), np.arange(2), pa.table({"row": [0, 1]}))
    with pytest.raises(ValueError, match="2 of 3 cells"):
        builder.finish()
