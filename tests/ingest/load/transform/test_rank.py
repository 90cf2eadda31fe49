"""Sequences of genes, against sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.block import Counts
from ingest.errors import ConfigError
from ingest.genes import Genes
from ingest.load.transform import GeneVocabulary, NormalizeLog1p, PerGene, RankOrder, gene_medians
from ingest.testing.hvg_data import trying_counts
from ingest.testing.windows import DTYPES, fresh, rows_of, window_of, windows

SCALES = st.sampled_from([1.0, 0.5, 3.0, 1e-3, 1e6, 0.1, 1 / 3, 1.0000000001])
VALUES = st.floats(0, 2.0**100, width=32) | st.sampled_from([0.1, 0.25, 1, 1.5])


def genes_of(n: int) -> Genes:
    ids = tuple(f"ENSG{at:03}" for at in range(n))
    return Genes(ids, ids, (0,) * n)


def ranked(values, indices, scale, length) -> list[int]:
    kept = [(-np.float64(v) / np.float64(scale[j]), j) for v, j in zip(values, indices, strict=True) if v > 0]
    return [j for _, j in sorted(kept)[:length]]


@given(windows() | windows(values=VALUES), st.integers(1, 45), st.data())
def test_genes_are_in_order_of_value_over_scale(window, length, data):
    scale = np.array(data.draw(st.lists(SCALES, min_size=window.n_genes, max_size=window.n_genes)))
    given_scale, plain = RankOrder(length, scale)(fresh(window)), RankOrder(length)(fresh(window))
    ones = np.ones(window.n_genes)
    for result, by in ((given_scale, scale), (plain, ones)):
        expected = [ranked(values, indices, by, length) for indices, values in rows_of(window)]
        assert [indices for indices, _ in rows_of(result)] == expected
        assert [values for _, values in rows_of(result)] == [list(range(1, len(row) + 1)) for row in expected]
        assert result.data.dtype == result.indices.dtype == np.int32
        assert len(result.data) == len(result.indices) == result.nnz


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_values_stand_in_the_order_of_their_columns(dtype):
    result = RankOrder(4)(window_of([[2, 7, 2, 0, 2, 9], [1, 1, 1, 1, 1, 1]], dtype))
    assert rows_of(result) == [([5, 1, 0, 2], [1, 2, 3, 4]), ([0, 1, 2, 3], [1, 2, 3, 4])]


@pytest.mark.parametrize("density", [0.02, 0.6])
def test_long_rows_are_argsorts(density):
    rng = np.random.default_rng(3)
    n_genes = 4_000
    rows = np.where(rng.random((12, n_genes)) < density, rng.lognormal(2, 2, (12, n_genes)) + 1e-3, 0)
    scale = rng.lognormal(0, 1, n_genes)
    window = window_of(rows)
    result = RankOrder(500, scale)(fresh(window))
    for row, (indices, _) in zip(rows.astype(np.float32), rows_of(result), strict=True):
        order = np.argsort(-(row.astype(np.float64) / scale), kind="stable")
        assert indices == order[: min(500, np.count_nonzero(row))].tolist()


def test_a_cells_total_changes_no_order():
    counts = trying_counts(50, 120)
    window = Counts(counts.indptr.astype(np.int64), counts.indices, counts.data, 120)
    totals = np.add.reduceat(counts.data.astype(np.float64), counts.indptr[:-1])
    scale = np.random.default_rng(0).lognormal(0, 1, 120)
    result = RankOrder(40, scale)(fresh(window))
    for cell, (indices, _) in enumerate(rows_of(result)):
        values = counts[cell].toarray()[0] / totals[cell] * 1e4 / scale
        assert np.allclose(values[indices], np.sort(values)[::-1][: len(indices)])


def test_tokens_are_the_vocabularys_and_unknown_genes_are_left_out_before_the_cut():
    genes = genes_of(5)
    vocabulary = GeneVocabulary((genes.ids[4], genes.ids[0], genes.ids[1]))
    tokens = vocabulary.tokens(genes)
    assert tokens.tolist() == [4, 5, -1, -1, 3]
    result = RankOrder(2, gene_tokens=tokens)(window_of([[1, 2, 90, 80, 3], [0, 0, 9, 0, 0]]))
    assert rows_of(result) == [([4, 1], [3, 5]), ([], [])]


def test_settings_and_cells_have_the_same_genes():
    window = window_of([[1, 2, 3]])
    for setting in ("gene_scale", "gene_tokens"):
        with pytest.raises(ConfigError, match=f"{setting} is of 2 genes, the cells have 3") as refused:
            RankOrder(5, **{setting: PerGene(np.array([1, 2]))})(window)
        assert refused.value.kind == "bad-transform"


@pytest.mark.parametrize("column", [-1, 3, 2**31 - 1])
def test_a_column_beyond_the_genes_is_never_looked_up(column):
    window = Counts(np.array([0, 1]), np.array([column], np.int32), np.ones(1, np.float32), 3)
    with pytest.raises(ValueError, match="entry 0 is of no column of 3"):
        RankOrder(5, np.ones(3))(window)


@pytest.mark.parametrize("bad", [[1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf]])
def test_scales_are_above_zero(bad):
    with pytest.raises(ConfigError, match="gene_scale: numbers above zero"):
        RankOrder(5, np.array(bad))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RankOrder(0), "length 0: at least one gene"),
        (lambda: RankOrder(3, gene_tokens=np.array([1.5])), "gene_tokens of float64: whole numbers"),
        (lambda: RankOrder(3, np.ones((2, 2))), "one number a gene"),
        (lambda: PerGene(np.array(["a"])), "one number a gene"),
        (lambda: PerGene(np.array([2**40])), "beyond int32"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@given(windows())
def test_medians_are_over_the_cells_that_have_the_gene(window):
    dense = np.zeros((window.n_cells, window.n_genes))
    for row, (indices, values) in enumerate(rows_of(window)):
        dense[row, indices] = np.array(values) * 1e4 / (sum(values) or 1)
    expected = [np.median(column[column > 0]) if (column > 0).any() else 1.0 for column in dense.T]
    before = rows_of(window)
    assert gene_medians(window).values == pytest.approx(expected)
    assert rows_of(window) == before


def test_medians_go_by_the_totals_handed_over():
    window = window_of([[1.0, 2.0], [3.0, 0.0]])
    totals = np.array([10.0, 10.0])
    assert gene_medians(window, 10, totals=totals).values.tolist() == [2, 2]
    assert NormalizeLog1p(10)(window, totals).data == pytest.approx(np.log1p([1, 2, 3]))


def test_scales_by_id():
    genes = genes_of(3)
    assert PerGene.of(genes, {"ENSG001": 2.5, "other": 9}, missing=1).values.tolist() == [1, 2.5, 1]
