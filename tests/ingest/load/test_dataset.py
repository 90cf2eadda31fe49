"""Counts of any cells in any order are what plain anndata and h5py read, whatever the chunks look like."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import ConfigError
from ingest.load.dataset import ReadSettings, open_chunks
from ingest.testing.shelf import KINDS

N = 106
"""Cells of every dataset on the shelf."""
ROWS = st.lists(st.integers(0, N - 1), max_size=120)


def dense(counts):
    """Check that it is canonical CSR, and return it as float64 ``(n_cells, n_genes)``."""
    assert counts.indptr.dtype == np.int64
    assert counts.indptr[0] == 0
    assert counts.indices.dtype == np.int32
    assert len(counts.indices) == len(counts.data) == counts.indptr[-1]
    for low, high in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        assert (np.diff(counts.indices[low:high]) > 0).all()
    shape = (counts.n_cells, counts.n_genes)
    return sparse.csr_matrix((counts.data, counts.indices, counts.indptr), shape=shape).toarray().astype(np.float64)


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def both(shelf, kind):
    """Return a dataset opened, and its counts as plain readers have them."""
    with open_chunks(shelf.made(kind), threads=2) as opened:
        yield opened, shelf.plain(kind).matrix.toarray()


@pytest.mark.sampled(3)
def test_all_cells(both, shelf, kind):
    cells, plain = both
    assert (cells.n_cells, cells.n_genes) == plain.shape == (N, 40)
    assert cells.genes.ids == shelf.plain(kind).genes
    counts = cells.counts(np.arange(N))
    assert counts.data.dtype == cells.dtype
    np.testing.assert_array_equal(dense(counts), plain)


@settings(max_examples=12)
@given(rows=ROWS)
def test_any_cells_in_any_order(both, rows):
    cells, plain = both
    np.testing.assert_array_equal(dense(cells.counts(rows)), plain[rows])


@settings(max_examples=12)
@given(rows=ROWS, genes=st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True))
def test_any_genes_in_any_order_and_the_sum_of_all(both, rows, genes):
    cells, plain = both
    read = cells.read(np.array(rows, np.int64), cells.gene_columns(genes)[1])
    np.testing.assert_array_equal(dense(read.counts), plain[rows][:, genes])
    if genes != list(range(40)):
        np.testing.assert_allclose(read.totals, plain[rows].sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("kind", ["float32-deflate", "h5-lz4", "uint16-none"])
@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"threads": 5}, {"cache_bytes": 0}, {"cache_bytes": 600, "threads": 3}], ids=str
)
def test_how_it_is_read_does_not_matter(shelf, kind, options):
    plain = shelf.plain(kind).matrix.toarray()
    rows = np.random.default_rng(0).integers(0, N, 300)
    with open_chunks(shelf.made(kind), **options) as cells:
        for _ in range(3):  # the second time from the cache
            np.testing.assert_array_equal(dense(cells.counts(rows)), plain[rows])
        assert cells._reader.cache.nbytes <= options.get("cache_bytes", 1 << 30)


def test_what_is_said_of_types(shelf):
    """One type a dataset: the one that holds every count exactly."""
    found = {name: open_chunks(shelf.made(f"{name}-deflate")).dtype for name in ("float32", "int32", "uint16", "h5")}
    assert found["float32"] == np.float32
    assert found["int32"] == np.int32
    assert np.iinfo(found["uint16"]).max >= 70_000
    assert np.iinfo(found["h5"]).max >= 40_000


@pytest.mark.parametrize("rows", [[-1], [N], [0, 3, N + 5], [1 << 40], [-(1 << 62)]], ids=str)
def test_no_such_cell(cells, rows):
    wrong = next(row for row in rows if not 0 <= row < N)
    for ask in (cells.counts, cells.cell_ids, cells.to_anndata, cells.measured, lambda r: cells.column("age", r)):
        with pytest.raises(ConfigError, match=f"no cell {wrong:,}: they are numbered from 0 to 105") as raised:
            ask(rows)
        assert raised.value.kind == "row-out-of-range"


@pytest.mark.parametrize("rows", [[0.5], ["a"], [None]], ids=str)
def test_cells_are_asked_for_by_number(cells, rows):
    with pytest.raises(ConfigError, match="asked for by number") as raised:
        cells.counts(rows)
    assert raised.value.kind == "bad-row"


def test_a_mask_stands_for_the_cells_it_marks(cells, plain):
    mask = np.zeros(N, bool)
    mask[[3, 50, 105]] = True
    np.testing.assert_array_equal(dense(cells.counts(mask)), plain.matrix.toarray()[mask])


def test_no_cells(cells):
    assert cells.counts([]).n_cells == 0
    assert cells.counts([]).n_genes == 40
    assert cells.cell_ids([]) == []
    assert cells.to_anndata([]).shape == (0, 40)
    assert cells.measured([]).shape == (0, 40)


def test_locate_agrees_with_the_files(cells, dest):
    files = sorted((dest / "chunks").iterdir())
    names = [anndata.read_h5ad(path).obs_names for path in files]
    places = [cells.locate(row) for row in range(N)]
    assert {dataset for dataset, _, _ in places} == {0}
    assert [names[chunk][within] for _, chunk, within in places] == cells.cell_ids(range(N))


def test_as_anndata(shelf, kind):
    plain = shelf.plain(kind)
    rows = [7, 100, 3, 52, 26]
    with open_chunks(shelf.made(kind)) as cells:
        found = cells.to_anndata(rows, genes=[5, 0, 39])
    np.testing.assert_array_equal(found.X.toarray(), plain.matrix[rows][:, [5, 0, 39]].toarray())
    assert list(found.var_names) == [plain.genes[column] for column in (5, 0, 39)]
    assert list(found.obs_names) == [plain.names[row] for row in rows]
    for column in ("cell_type", "tissue", "SRX_accession", "age", "score", "primary"):
        values = found.obs[column].tolist()
        assert [None if value != value else value for value in values] == plain.obs[column].iloc[rows].tolist()
    found.X.sum_duplicates()
    assert found.X.has_canonical_format


def test_an_anndata_keeps_its_counts_when_others_are_read(cells, plain):
    held = cells.to_anndata([0, 1, 2, 3])
    for start in range(4, 100, 4):
        cells.counts(np.arange(start, start + 4))
    np.testing.assert_array_equal(held.X.toarray(), plain.matrix[:4].toarray())


def test_a_cell_twice_in_an_anndata(cells, plain):
    with pytest.warns(UserWarning, match="not unique"):  # as anndata says it
        found = cells.to_anndata([7, 3, 3])
    assert list(found.obs_names) == [plain.names[row] for row in (7, 3, 3)]


def test_nothing_to_open(tmp_path):
    with pytest.raises(ConfigError, match="no dataset is named"):
        open_chunks([])
    with pytest.raises(ConfigError, match="holds no finished dataset") as raised:
        open_chunks(tmp_path / "nothing")
    assert "run" in raised.value.hint


def test_a_setting_that_is_none(dest):
    with pytest.raises(ConfigError, match="thread is no setting of reading; there is threads, cache_bytes"):
        open_chunks(dest, thread=2)


def test_settings_as_a_value(dest):
    assert open_chunks(dest, settings=ReadSettings(threads=1)).settings.threads == 1


@pytest.mark.parametrize(
    ("genes", "kind", "match"),
    [
        (["ENSG00000000037", "nonsense"], None, "nonsense"),
        ([0, 40], "bad-gene", "columns from 0 to 39"),
        ([-1], "bad-gene", "columns from 0 to 39"),
        ([1.5], "bad-gene", "columns from 0 to 39"),
        ([2, 2], "duplicate-gene", "twice"),
        (["ENSG00000000037", "ENSG00000000037"], None, "twice"),
        ([], None, "no genes"),
    ],
    ids=str,
)
def test_genes_that_cannot_be(cells, genes, kind, match):
    with pytest.raises(ConfigError, match=match) as raised:
        cells.counts([0], genes=genes)
    assert kind is None or raised.value.kind == kind


def test_genes_in_whatever_people_have_them(cells, plain):
    ids = [plain.genes[column] for column in (9, 2)]
    wanted = plain.matrix[[5]][:, [9, 2]].toarray()
    for genes in (ids, tuple(ids), np.array(ids), pd.Index(ids), pd.Series(ids, index=["x", "y"]), np.array([9, 2])):
        np.testing.assert_array_equal(dense(cells.counts([5], genes=genes)), wanted)
