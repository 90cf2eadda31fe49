"""A batch as tensors: dense, CSR of constant width, ragged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.block import Counts
from ingest.errors import ConfigError
from ingest.load.torch.forms import maker_of
from ingest.testing.examples import examples
from ingest.testing.h5ad_files import sample_counts


def counts_of(n_cells, n_genes, seed, dtype=np.float32):
    matrix = sample_counts(n_cells, n_genes, density=0.3, seed=seed)
    indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
    return Counts(indptr, indices, matrix.data.astype(dtype), n_genes), matrix.toarray()


@settings(max_examples=examples(12))
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(1, 12)),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "int32", "uint16", "uint32", "float64"]),
    tokens=st.booleans(),
)
def test_each_holds_the_same(shape, seed, dtype, tokens):
    counts, whole = counts_of(*shape, seed, dtype)
    kind = torch.int64 if tokens else torch.float32
    dense = maker_of("dense", tokens=tokens)(counts)
    assert (dense.dtype, dense.shape) == (kind, shape)
    np.testing.assert_array_equal(dense.numpy(), whole)
    csr = maker_of("csr", tokens=tokens)(counts)
    assert (csr.dtype, csr.shape, csr.layout) == (kind, shape, torch.sparse_csr)
    assert csr.crow_indices().dtype == csr.col_indices().dtype == torch.int32
    np.testing.assert_array_equal(csr.to_dense().numpy(), whole)
    values, indices, lengths = maker_of("ragged", tokens=tokens)(counts)
    assert (values.dtype, indices.dtype, lengths.dtype) == (kind, torch.int64, torch.int64)
    assert lengths.tolist() == (whole != 0).sum(axis=1).tolist()
    assert indices.tolist() == np.nonzero(whole)[1].tolist()
    assert values.tolist() == whole[whole != 0].tolist()


def test_a_model_can_multiply_by_them():
    counts, whole = counts_of(6, 8, 1)
    weights = torch.rand(8, 3)
    csr = maker_of("csr", tokens=False)(counts)
    torch.testing.assert_close(csr @ weights, torch.from_numpy(whole) @ weights)


def test_rows_of_a_window():
    """Views that begin somewhere inside of larger arrays."""
    counts, whole = counts_of(20, 8, 2)
    for form in ("dense", "csr"):
        found = maker_of(form, tokens=False)(counts.rows(5, 12))
        np.testing.assert_array_equal((found.to_dense() if form == "csr" else found).numpy(), whole[5:12])


@pytest.mark.parametrize("column", [8, -1, 1 << 30])
def test_numbers_that_are_no_columns(column):
    """Of a transform with a numbering of its own: refused before anything is written there."""
    counts, _ = counts_of(4, 8, 3)
    counts.indices[2] = column
    with pytest.raises(ConfigError, match="no columns of a matrix") as raised:
        maker_of("dense", tokens=True)(counts)
    assert "ragged" in raised.value.hint
    assert maker_of("ragged", tokens=True)(counts)[1][2] == column


def test_a_batch_that_is_kept_stays():
    make = maker_of("dense", tokens=False)
    kept = [(make(counts), whole) for counts, whole in (counts_of(5, 9, seed) for seed in range(20))]
    for found, whole in kept:
        np.testing.assert_array_equal(found.numpy(), whole)


def test_no_such_form():
    with pytest.raises(ConfigError, match="form='sparse': a batch is dense, csr, ragged"):
        maker_of("sparse", tokens=False)
