"""Fetching rows of h5ad files, compared with plain anndata and scipy to the last count."""

from __future__ import annotations

import errno
import itertools
import tempfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import ConfigError, HostileFileError, NotCountsError, SourceChangedError, SourceError
from ingest.fetch import h5ad_scratch
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.h5ad import H5adFetcher
from ingest.fetch.h5ad_csc import CscReader
from ingest.fetch.h5ad_scratch import ScratchReader
from ingest.fetch.h5ad_slabs import Slab, plan_runs
from ingest.genes import Genes
from ingest.source import Source
from ingest.survey.h5ad import survey_h5ad
from ingest.testing.examples import examples
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

MEBIBYTE = 1 << 20
REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout"),
]
# anndata 0.6 files are read by anndata itself with warnings about their age.
old_files = pytest.mark.filterwarnings("ignore::Warning")


@contextmanager
def fetching(path, tmp_path, *, genes=None, memory=64 * MEBIBYTE, layer=None, allow_noninteger=False, dtype="float32"):
    survey = survey_h5ad(Source.parse(str(path)), layer=layer, allow_noninteger=allow_noninteger)
    limits = FetchLimits(memory, 1, tmp_path / "scratch")
    options = FetchOptions(dtype, allow_noninteger)
    fetcher = H5adFetcher(survey, survey.genes if genes is None else genes, options, limits)
    try:
        yield fetcher, survey
    finally:
        fetcher.close()
        assert not list((tmp_path / "scratch").glob("*"))


def assert_rows(fetched, expected):
    expected = sparse.csr_matrix(expected)
    expected.sort_indices()
    expected.eliminate_zeros()
    assert fetched.counts.indptr.dtype == np.int64
    assert fetched.counts.indices.dtype == np.int32
    np.testing.assert_array_equal(fetched.counts.indptr, expected.indptr)
    np.testing.assert_array_equal(fetched.counts.indices, expected.indices)
    np.testing.assert_array_equal(fetched.counts.data, expected.data)


def true_matrix(path, where):
    file = anndata.read_h5ad(path)
    matrix = {"X": lambda: file.X, "raw/X": lambda: file.raw.X, "raw.X": lambda: file.raw.X}.get(
        where, lambda: file.layers[where.removeprefix("layers/")]
    )()
    return sparse.csr_matrix(matrix), file.obs_names.astype(str).to_numpy()


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    matrix = sample_counts(60, 40)

    def write(layout, legacy, where, compression):
        path = folder / f"{layout}-{legacy}-{where.replace(':', '-')}-{compression}.h5ad"
        return write_h5ad_variant(path, matrix, layout=layout, legacy=legacy, where=where, compression=compression)

    return write


@old_files
@pytest.mark.parametrize("memory", [64 * MEBIBYTE, 1 << 15])
@pytest.mark.parametrize("where", ["X", "raw", "layer:counts"])
@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.sampled(3)
def test_every_variant_equals_plain_anndata_in_random_order(variants, tmp_path, layout, legacy, where, memory):
    path = variants(layout, legacy, where, "gzip" if where == "raw" else None)
    with fetching(path, tmp_path, memory=memory) as (fetcher, survey):
        matrix, names = true_matrix(path, survey.matrix)
        for seed, size in ((0, 60), (1, 7), (2, 1), (3, 0)):
            rows = np.random.default_rng(seed).permutation(60)[:size]
            fetched = fetcher.read(rows)
            assert_rows(fetched, matrix[rows])
            assert fetched.names.to_pylist() == names[rows].tolist()
            assert fetched.counts.data.dtype == np.float32
            assert not fetched.was_unsorted


@old_files
@pytest.mark.parametrize(
    "name", [pytest.param(path, marks=realdata) for path in sorted(p.name for p in REAL.glob("*.h5ad")) or ["none"]]
)
def test_every_real_file_equals_plain_anndata(name, tmp_path):
    path = REAL / name
    with fetching(path, tmp_path, memory=MEBIBYTE) as (fetcher, survey):
        matrix, names = true_matrix(path, survey.matrix)
        assert matrix.shape == (survey.n_obs, len(survey.genes))
        rows = np.random.default_rng(0).permutation(survey.n_obs)
        bytes_read = 0
        for part in np.array_split(rows, 3):
            fetched = fetcher.read(part)
            bytes_read += fetched.bytes_read
            assert_rows(fetched, matrix[part])
            assert fetched.names.to_pylist() == names[part].tolist()
        assert bytes_read > survey.stored_bytes / 2  # headers and samples were read before


counts_strategy = st.tuples(st.integers(1, 30), st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32 - 1)).map(
    lambda drawn: sample_counts(drawn[0], drawn[1], density=drawn[2], seed=drawn[3])
)


@settings(max_examples=examples(24), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    matrix=counts_strategy,
    layout=st.sampled_from(["csr", "csc", "dense"]),
    stored=st.sampled_from(["f4", "f8", "i2", "u1", "i4", "i8", "u8", ">f4", ">i4"]),
    index=st.sampled_from(["i4", "i8", "u4", "u8"]),
    chunk=st.one_of(st.none(), st.integers(1, 20)),
    delivered=st.sampled_from(["float32", "int32", "uint16"]),
    memory=st.sampled_from([64 * MEBIBYTE, 4096]),
    data=st.data(),
)
def test_any_matrix_any_genes_any_order_equals_scipy(matrix, layout, stored, index, chunk, delivered, memory, data):
    n_obs, n_vars = matrix.shape
    rows = np.array(data.draw(st.lists(st.integers(0, n_obs - 1), unique=True)), np.int64)
    columns = data.draw(st.lists(st.integers(0, n_vars), unique=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5ad"
        write_raw(path, matrix, layout, stored, index, chunk)
        names = [f"g{column}" if column < n_vars else "elsewhere" for column in columns]
        genes = Genes(tuple(names), tuple(names), (0,) * len(names))
        with fetching(path, Path(folder), genes=genes, memory=memory, dtype=delivered) as (fetcher, _):
            fetched = fetcher.read(rows)
    wide = sparse.hstack([matrix, sparse.csr_matrix((n_obs, 1))]).tocsr()
    assert_rows(fetched, wide[rows][:, columns])
    assert fetched.counts.data.dtype == np.dtype(delivered)
    assert fetched.counts.n_genes == len(columns)


def write_raw(path, matrix, layout, stored, index, chunk):
    """Write any type and chunk shape, which anndata's own writer would not."""
    with h5py.File(path, "w") as file:
        if layout == "dense":
            chunks = None if chunk is None else (min(chunk, matrix.shape[0]), min(3, matrix.shape[1]))
            file.create_dataset("X", data=matrix.toarray().astype(stored), chunks=chunks)
        else:
            lying = matrix.tocsr() if layout == "csr" else matrix.tocsc()
            group = file.create_group("X")
            group.attrs.update({"encoding-type": f"{layout}_matrix", "shape": np.array(matrix.shape)})
            for name, values in (("data", stored), ("indices", index), ("indptr", index)):
                part = getattr(lying, name).astype(values)
                group.create_dataset(name, data=part, chunks=(min(chunk, len(part)),) if chunk and len(part) else None)
        for name, size, letter in (("obs", matrix.shape[0], "c"), ("var", matrix.shape[1], "g")):
            table = file.create_group(name)
            table.attrs["_index"] = "_index"
            table["_index"] = [f"{letter}{number}" for number in range(size)]


def test_a_tall_narrow_chunk_is_decoded_once_and_unwanted_columns_never(tmp_path):
    matrix = sample_counts(500, 30, density=0.4)
    path = tmp_path / "tall.h5ad"
    write_raw(path, matrix, "dense", "f4", "i4", 500)
    rows = np.random.default_rng(0).permutation(500)
    with fetching(path, tmp_path, memory=1 << 14) as (fetcher, survey):
        assert survey.band_rows == 500
        assert_rows(fetcher.read(rows), matrix[rows])
    genes = survey.genes.take([29, 0])
    with fetching(path, tmp_path, memory=1 << 14, genes=genes) as (fetcher, _):
        assert_rows(fetcher.read(rows), matrix[rows][:, [29, 0]])


def test_a_csc_larger_than_memory_goes_through_scratch_within_its_limit(tmp_path):
    matrix = sample_counts(3000, 400, density=0.5)
    path = write_h5ad_variant(tmp_path / "csc.h5ad", matrix, layout="csc")
    limit = MEBIBYTE
    assert matrix.nnz * 8 > 4 * limit
    rows = np.arange(10, 200)
    with fetching(path, tmp_path) as (fetcher, _):  # compiles, and shows that what fits stays in memory
        fetcher.read(rows)
        assert isinstance(fetcher._reader, CscReader)
    with fetching(path, tmp_path, memory=limit) as (fetcher, _):
        tracemalloc.start()
        fetched = fetcher.read(rows)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(fetcher._reader, ScratchReader)
        assert (
            len(list((tmp_path / "scratch").glob("*/*"))) == 3
        )  # a lock, indices, data: ranges are deleted once in order
        assert_rows(fetched, matrix[rows])
        assert peak < limit + fetched.counts.nbytes * 2, peak
        shuffled = np.random.default_rng(0).permutation(3000)
        assert_rows(fetcher.read(shuffled), matrix[shuffled])


def test_rows_crowded_into_one_range_are_ordered_in_several_passes(tmp_path):
    dense = np.zeros((2000, 600), np.float32)
    dense[:200] = 1  # all entries in the first range of rows: 960 kB of them
    dense[1999, 3] = 7
    path = write_h5ad_variant(tmp_path / "csc.h5ad", sparse.csr_matrix(dense), layout="csc")
    limit = 1 << 18
    for _ in range(2):  # the first time compiles
        with fetching(path, tmp_path, memory=limit) as (fetcher, _):
            tracemalloc.start()
            fetcher.read(np.array([1999]))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert isinstance(fetcher._reader, ScratchReader)
            assert_rows(fetcher.read(np.arange(2000)), dense)
    assert peak < 1.5 * limit, peak


def test_a_gene_filter_transposes_only_its_columns(tmp_path):
    matrix = sample_counts(3000, 400, density=0.5)
    path = write_h5ad_variant(tmp_path / "csc.h5ad", matrix, layout="csc")
    survey = survey_h5ad(Source.parse(str(path)))
    with fetching(path, tmp_path, memory=MEBIBYTE, genes=survey.genes.take([7, 3])) as (fetcher, _):
        fetched = fetcher.read(np.arange(3000))
        assert isinstance(fetcher._reader, CscReader)
        assert_rows(fetched, matrix[:, [7, 3]])
        assert fetched.bytes_read < survey.stored_bytes / 8  # names and bridged gaps included


@pytest.mark.parametrize("memory", [64 * MEBIBYTE, 1 << 17])
def test_bad_row_numbers_of_a_csc_are_refused_before_they_are_used(tmp_path, memory):
    path = write_h5ad_variant(tmp_path / "csc.h5ad", sample_counts(1000, 60), layout="csc")
    for wrong in (-1, 1000, 2**31 - 1):
        with h5py.File(path, "r+") as file:
            file["X/indices"][-1] = wrong
        with (
            fetching(path, tmp_path, memory=memory) as (fetcher, survey),
            pytest.raises(HostileFileError, match=f"row {wrong} of 1000") as caught,
        ):
            fetcher.read(np.arange(5))
        assert caught.value.kind == "index-range"
        assert caught.value.source == str(survey.source)


def test_a_csc_entry_that_stands_twice_is_refused(tmp_path):
    path = write_h5ad_variant(tmp_path / "csc.h5ad", sample_counts(1000, 60, density=0.9), layout="csc")
    with h5py.File(path, "r+") as file:
        file["X/indices"][1] = file["X/indices"][0]
    for memory in (64 * MEBIBYTE, 1 << 17):
        with fetching(path, tmp_path, memory=memory) as (fetcher, _), pytest.raises(HostileFileError) as caught:
            fetcher.read(np.arange(1000))
        assert caught.value.kind == "duplicate-entry"


def test_a_full_scratch_disk_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    path = write_h5ad_variant(tmp_path / "csc.h5ad", sample_counts(2000, 100, density=0.5), layout="csc")
    monkeypatch.setattr(h5ad_scratch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with fetching(path, tmp_path, memory=1 << 18) as (fetcher, _), pytest.raises(ConfigError) as caught:
        fetcher.read(np.arange(5))
    assert caught.value.kind == "disk-full"
    assert "1,000 are free" in str(caught.value)
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5ad_scratch, "_write", full)
    with fetching(path, tmp_path, memory=1 << 18) as (fetcher, _), pytest.raises(ConfigError) as caught:
        fetcher.read(np.arange(5))
    assert caught.value.kind == "disk-full"
    assert not list((tmp_path / "scratch").glob("*"))


def test_unsorted_rows_are_sorted_and_said_to_have_been(tmp_path):
    matrix = sample_counts(20, 30, density=0.5)
    turned = matrix.copy()
    for row in range(20):
        part = slice(turned.indptr[row], turned.indptr[row + 1])
        turned.indices[part], turned.data[part] = turned.indices[part][::-1].copy(), turned.data[part][::-1].copy()
    path = tmp_path / "a.h5ad"
    write_raw(path, turned, "csr", "f4", "i4", None)
    with fetching(path, tmp_path) as (fetcher, _):
        fetched = fetcher.read(np.arange(20))
    assert fetched.was_unsorted
    assert_rows(fetched, matrix)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.nan, "nan"), (np.inf, "infinite"), (-1, "negative"), (0.5, "fractional"), (3e9, "count-overflow")],
)
def test_what_is_no_count_is_named_by_row_and_gene_and_nothing_is_delivered(tmp_path, value, kind):
    dense = sample_counts(20000, 8, density=0.9).toarray()
    dense[5000, 2] = value  # away from the samples that the survey takes
    path = write_h5ad_variant(tmp_path / "a.h5ad", sparse.csr_matrix(dense), var_ids=[f"g{i}" for i in range(8)])
    with fetching(path, tmp_path) as (fetcher, survey):
        assert survey.integer
        with pytest.raises(NotCountsError) as caught:
            fetcher.read(np.array([6000, 5000, 4999]))
        assert caught.value.kind == kind
        assert "a.h5ad: X: row 5000, gene g2 holds" in str(caught.value)
        assert fetcher.read(np.array([6000, 4999])).counts.n_cells == 2


def test_counts_that_the_type_cannot_hold_exactly_are_refused(tmp_path):
    dense = np.ones((4, 3))
    for value, dtype in ((2**24 + 1, "float32"), (70_000, "uint16")):
        dense[2, 1] = value
        path = write_h5ad_variant(tmp_path / "a.h5ad", sparse.csr_matrix(dense), dtype="f8", var_ids=["a", "b", "c"])
        with fetching(path, tmp_path, dtype=dtype) as (fetcher, _), pytest.raises(NotCountsError) as caught:
            fetcher.read(np.arange(4))
        assert caught.value.kind == "count-overflow"
        assert "row 2, gene b" in str(caught.value)


def test_fractions_pass_in_their_own_type_when_allowed(tmp_path):
    dense = np.array([[0.1, 0, 2], [0, 3.5, 0]])
    path = write_h5ad_variant(tmp_path / "a.h5ad", sparse.csr_matrix(dense), dtype="f8", var_ids=["a", "b", "c"])
    with fetching(path, tmp_path, allow_noninteger=True) as (fetcher, survey):
        assert not survey.integer
        fetched = fetcher.read(np.array([1, 0]))
    assert fetched.counts.data.dtype == np.float64
    assert_rows(fetched, dense[[1, 0]])


def test_rows_that_are_not_there_or_asked_for_twice_are_refused(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(5, 5))
    with fetching(path, tmp_path) as (fetcher, _):
        for rows, kind in (([0, 5], "row-range"), ([-1], "row-range"), ([2, 1, 2], "duplicate-row")):
            with pytest.raises(SourceError) as caught:
                fetcher.read(np.array(rows))
            assert caught.value.kind == kind


@pytest.mark.parametrize("how", ["before", "between"])
def test_a_file_that_changed_is_never_delivered(tmp_path, how):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(50, 20))
    survey = survey_h5ad(Source.parse(str(path)))
    limits = FetchLimits(MEBIBYTE, 1, tmp_path)
    if how == "before":
        write_h5ad_variant(path, sample_counts(50, 20, seed=1))
        with pytest.raises(SourceChangedError):
            H5adFetcher(survey, survey.genes, FetchOptions(), limits)
        return
    fetcher = H5adFetcher(survey, survey.genes, FetchOptions(), limits)
    fetcher.read(np.arange(3))
    other = write_h5ad_variant(tmp_path / "b.h5ad", sample_counts(50, 20, seed=1))
    other.replace(path)
    with pytest.raises(SourceChangedError):
        fetcher.read(np.arange(3))
    fetcher.close()


def test_runs_bridge_small_gaps_and_never_exceed_a_slab():
    lengths = np.array([5, 5, 5, 100, 5, 5, 30])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    rows = np.array([0, 1, 2, 4, 5, 6])  # row 3 is not wanted: a gap of 100
    pick = rows
    assert plan_runs(starts[pick], ends[pick], rows, merge=100, most=1000) == [Slab(0, 6)]
    assert plan_runs(starts[pick], ends[pick], rows, merge=99, most=1000) == [Slab(0, 3), Slab(3, 6)]
    assert plan_runs(starts[pick], ends[pick], rows, merge=0, most=10) == [
        *(Slab(0, 2), Slab(2, 3)),
        *(Slab(3, 5), Slab(5, 6)),
    ]


@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    merge=st.integers(0, 60),
    most=st.integers(1, 80),
    data=st.data(),
)
def test_slabs_cover_each_wanted_row_once_within_the_bound(lengths, merge, most, data):
    ends = np.cumsum(lengths)
    starts = ends - np.array(lengths)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(lengths) - 1), min_size=1))))
    slabs = plan_runs(starts[rows], ends[rows], rows, merge=merge, most=most)
    assert [slab.first for slab in slabs] == [0, *(slab.last for slab in slabs[:-1])]
    assert slabs[-1].last == len(rows)
    for slab in slabs:
        size = ends[rows[slab.last - 1]] - starts[rows[slab.first]]
        assert slab.last - slab.first == 1 or size <= most


def test_a_gene_table_of_another_file_does_not_pass(tmp_path):
    one = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(5, 5))
    survey = survey_h5ad(Source.parse(str(one)))
    fewer = type(survey)(**{**{f: getattr(survey, f) for f in survey.__slots__}, "genes": survey.genes.take([0])})
    with pytest.raises(SourceChangedError):
        H5adFetcher(fewer, survey.genes, FetchOptions(), FetchLimits(MEBIBYTE, 1, tmp_path))


def test_obs_of_any_kind_do_not_disturb_reading(tmp_path):
    obs = pd.DataFrame({"a": pd.array([1, None, 3], "Int64")}, index=["x", "y", "z"])
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(3, 4), obs=obs)
    with fetching(path, tmp_path) as (fetcher, _):
        assert fetcher.read(np.array([2, 0])).names.to_pylist() == ["z", "x"]


def test_layers_are_taken_by_name(tmp_path):
    matrix = sample_counts(6, 5)
    path = write_h5ad_variant(tmp_path / "a.h5ad", matrix, where="layer:mine")
    for layer, expected in itertools.product(["mine", "layers/mine"], [matrix]):
        with fetching(path, tmp_path, layer=layer) as (fetcher, survey):
            assert survey.matrix == "layers/mine"
            assert_rows(fetcher.read(np.arange(6)), expected)
