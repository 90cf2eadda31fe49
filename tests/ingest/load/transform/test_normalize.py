"""Normalising, against scanpy."""

from __future__ import annotations

import math
import warnings

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import ConfigError
from ingest.load.transform import BinnedTokens, Compose, Log1p, Normalize, NormalizeLog1p
from ingest.testing.hvg_data import trying_counts
from ingest.testing.windows import DTYPES, fresh, rows_of, window_of, windows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import scanpy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

ROUNDING = 2e-6
"""Relative: scanpy adds up and divides in float32."""


def scanpys(matrix, *steps):
    cells = anndata.AnnData(sparse.csr_matrix(matrix))
    for step in steps:
        step(cells)
    return cells


def by_target(target):
    return lambda cells: scanpy.pp.normalize_total(cells, target_sum=target)


WAYS = [
    (Normalize(1e4), (by_target(1e4),)),
    (Normalize(37.5), (by_target(37.5),)),
    (Log1p(), (scanpy.pp.log1p,)),
    (NormalizeLog1p(1e4), (by_target(1e4), scanpy.pp.log1p)),
    (Compose([Normalize(1e6), Log1p()]), (by_target(1e6), scanpy.pp.log1p)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("transform", "steps"), WAYS, ids=repr)
def test_values_are_scanpys(transform, steps, dtype):
    matrix = trying_counts(120, 180).toarray()
    matrix[5] = 0
    matrix[7, :3] = [254, 255, 256]
    matrix = np.minimum(matrix, np.iinfo(np.int16).max)
    expected = scanpys(matrix.astype(np.float32), *steps).X.toarray()
    result = transform(window_of(matrix, dtype))
    assert result.data.dtype == np.float32
    found = sparse.csr_matrix((result.data, result.indices, result.indptr), matrix.shape).toarray()
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=0)


@given(windows(), st.floats(1e-3, 1e9))
def test_each_value_is_the_formulas(window, target):
    for transform, formula in (
        (NormalizeLog1p(target), lambda value, total: math.log1p(value * target / total)),
        (Normalize(target), lambda value, total: value * target / total),
        (Log1p(), lambda value, _total: math.log1p(value)),
    ):
        for (_, values), (_, results) in zip(rows_of(window), rows_of(transform(fresh(window))), strict=True):
            total = math.fsum(values) or 1.0
            np.testing.assert_allclose(results, [formula(value, total) for value in values], rtol=1.2e-7)


@given(windows(values=st.floats(0, 1e6, width=32)))
def test_fractions_are_values_too(window):
    for (_, values), (_, results) in zip(rows_of(window), rows_of(NormalizeLog1p()(fresh(window))), strict=True):
        total = math.fsum(values) or 1.0
        np.testing.assert_allclose(results, np.log1p(np.array(values) * 1e4 / total), rtol=1.2e-7, atol=1e-45)


@pytest.mark.parametrize("transform", [Normalize(), NormalizeLog1p()], ids=repr)
def test_a_gene_has_one_value_whichever_genes_are_delivered(transform):
    """What scanpy gives when it normalises before it takes the subset."""
    matrix = trying_counts(60, 90).toarray()
    steps = (by_target(1e4), scanpy.pp.log1p)[: 1 if isinstance(transform, Normalize) else 2]
    expected = scanpys(matrix, *steps).X.toarray()[:, 20:40]
    part = window_of(matrix[:, 20:40])
    totals = matrix.sum(axis=1, dtype=np.float64)
    result = transform(fresh(part), totals)
    assert rows_of(Compose([transform])(fresh(part), totals)) == rows_of(result)
    found = sparse.csr_matrix((result.data, result.indices, result.indptr), expected.shape).toarray()
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)
    assert not np.allclose(transform(part).data, result.data, rtol=0.1)  # it does make a difference


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("kind", [Normalize, NormalizeLog1p])
def test_a_target_is_a_number_above_zero(kind, target):
    with pytest.raises(ConfigError, match=r"target_sum .* a number above 0 is wanted"):
        kind(target)


def test_what_goes_by_totals_stands_first():
    with pytest.raises(ConfigError, match=r"Normalize\(.*\) after Log1p\(\): it goes by the total") as refused:
        Compose([Log1p(), Normalize()])
    assert refused.value.hint == "put it first"
    with pytest.raises(ConfigError, match="after BinnedTokens"):
        Compose([BinnedTokens(4), Compose([NormalizeLog1p()])])
