"""The compiled passes against scipy, whatever the order, the layout, the types and the selection."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.block import Counts
from ingest.errors import HostileFileError, NotCountsError, SourceChangedError, SourceError
from ingest.fetch.assemble import CooAssembler, CscAssembler, GeneMap, csr_rows, dense_rows, reorder_rows
from ingest.fetch.base import FetchOptions
from ingest.fetch.values import convert_counts, delivered_dtype, plain_indices, plain_values
from ingest.genes import Genes
from ingest.testing.examples import examples
from ingest.validate import check_counts


def dense(counts: Counts) -> np.ndarray:
    check_counts(counts, source="test")
    matrix = sp.csr_matrix((counts.data, counts.indices, counts.indptr), shape=(counts.n_cells, counts.n_genes))
    return matrix.toarray()


def genes_of(*ids: str) -> Genes:
    return Genes(ids, ids, (0,) * len(ids))


@st.composite
def cases(draw):
    """A dense matrix, rows wanted of it, a gene map, and what the rows must be."""
    n_rows, n_source = draw(st.integers(1, 9)), draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int32, np.int64]))
    matrix = (rng.integers(1, 1000, (n_rows, n_source)) * (rng.random((n_rows, n_source)) < 0.3)).astype(dtype)
    rows = rng.permutation(n_rows)[: draw(st.integers(0, n_rows))].astype(np.int64)
    source = genes_of(*(f"g{j}" for j in range(n_source)))
    kind = draw(st.sampled_from(["identity", "subset", "permuted", "wider"]))
    columns = rng.permutation(n_source)[: draw(st.integers(1, n_source))] if kind != "identity" else range(n_source)
    ids = [f"g{j}" for j in columns] + (["elsewhere"] if kind == "wider" else [])
    if kind == "permuted":
        ids = [f"g{j}" for j in rng.permutation(n_source)]
    target = genes_of(*ids)
    wanted = np.zeros((len(rows), len(ids)), dtype)
    for j, gene in enumerate(ids):
        if gene != "elsewhere":
            wanted[:, j] = matrix[rows, int(gene[1:])]
    return matrix, rows, GeneMap.between(source, target), wanted, rng


@settings(max_examples=examples(24), deadline=None)
@given(cases(), st.booleans(), st.sampled_from([np.int32, np.int64]))
def test_csr_rows(case, shuffled, index_type):
    matrix, rows, genes, wanted, rng = case
    csr = sp.csr_matrix(matrix)
    indices, data = csr.indices.astype(index_type), csr.data.copy()
    if shuffled:
        for begin, end in zip(csr.indptr[:-1], csr.indptr[1:], strict=True):
            order = begin + rng.permutation(end - begin)
            indices[begin:end], data[begin:end] = indices[order], data[order]
    taken = csr_rows(csr.indptr, indices, data, rows, genes, source="test")
    np.testing.assert_array_equal(dense(taken.counts), wanted)
    descends = any((np.diff(indices[csr.indptr[row] : csr.indptr[row + 1]]) < 0).any() for row in rows)
    assert taken.was_unsorted == descends
    assert taken.counts.data.dtype == matrix.dtype


@settings(max_examples=examples(16), deadline=None)
@given(cases())
def test_dense_rows(case):
    matrix, rows, genes, wanted, _ = case
    np.testing.assert_array_equal(dense(dense_rows(matrix, rows, genes, source="test").counts), wanted)


@settings(max_examples=examples(24), deadline=None)
@given(cases(), st.integers(1, 40), st.sampled_from([0, 5_000_000_000]), st.booleans())
def test_coordinates_in_any_order(case, step, first, scattered):
    matrix, rows, genes, wanted, rng = case
    spread = 10_000_000 if scattered else 1  # past the lookup table's span: rows are searched
    dim0, dim1 = np.nonzero(matrix)
    order = rng.permutation(len(dim0))
    dim0, dim1 = dim0[order].astype(np.int64), dim1[order].astype(np.int64)
    assembler = CooAssembler(first + rows * spread, genes, dtype=matrix.dtype, source="test")
    for begin in range(0, len(dim0), step):
        part = slice(begin, begin + step)
        assembler.add(first + dim0[part] * spread, dim1[part], matrix[dim0[part], dim1[part]])
    np.testing.assert_array_equal(dense(assembler.finish().counts), wanted)


@settings(max_examples=examples(24), deadline=None)
@given(cases(), st.integers(1, 60))
def test_columns_in_blocks(case, width):
    matrix, rows, genes, wanted, _ = case
    csc = sp.csc_matrix(matrix)
    assembler = CscAssembler(rows, len(matrix), genes, dtype=matrix.dtype, source="test")
    blocks = [(j, csc[:, j : j + width]) for j in range(0, matrix.shape[1], width)]
    for j, block in blocks:
        assembler.count(j, block.indptr, block.indices)
    for j, block in blocks:
        assembler.fill(j, block.indptr, block.indices, block.data)
    np.testing.assert_array_equal(dense(assembler.finish().counts), wanted)


@settings(max_examples=examples(12), deadline=None)
@given(cases())
def test_reorder_rows(case):
    matrix, rows, _, _, _ = case
    csr = sp.csr_matrix(matrix)
    counts = Counts(csr.indptr.astype(np.int64), csr.indices, csr.data, matrix.shape[1])
    np.testing.assert_array_equal(dense(reorder_rows(counts, rows)), matrix[rows])


IDENTITY = GeneMap.between(genes_of("a", "b", "c"), genes_of("a", "b", "c"))
ROWS = np.array([1, 0])


def test_stored_zeros_are_dropped_and_counted():
    taken = csr_rows(
        np.array([0, 2, 4]), np.array([0, 2, 0, 1]), np.array([0.0, 1, 2, -0.0]), ROWS, IDENTITY, source="x"
    )
    assert taken.zeros_dropped == 2
    assert taken.counts.nnz == len(taken.counts.data) == 2
    np.testing.assert_array_equal(dense(taken.counts), [[2, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("column", [-1, 3, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("target", [IDENTITY, GeneMap.between(genes_of("a", "b", "c"), genes_of("b"))])
def test_columns_out_of_range_are_refused_before_use(column, target):
    indices = np.array([0, column], np.int32)
    with pytest.raises(HostileFileError, match=f"column {column} of 3") as caught:
        csr_rows(np.array([0, 1, 2]), indices, np.ones(2, np.float32), ROWS, target, source="x")
    assert caught.value.kind == "index-range"
    with pytest.raises(HostileFileError, match=f"row 1: column {column} of 3"):
        CooAssembler(np.array([0, 1]), target, dtype=np.float32, source="x").add(
            np.array([0, 1]), indices.astype(np.int64), np.ones(2, np.float32)
        )


@pytest.mark.parametrize("row", [-1, 2, 2**40])
def test_csc_rows_out_of_range_are_refused_before_use(row):
    assembler = CscAssembler(ROWS, 2, IDENTITY, dtype=np.float32, source="x")
    with pytest.raises(HostileFileError, match=f"column 2: row {row} of 2"):
        assembler.count(0, np.array([0, 0, 0, 1]), np.array([row]))


def test_a_second_pass_over_other_columns_is_noticed():
    indptr, data = np.array([0, 1, 1, 1]), np.ones(1, np.float32)
    for again in (np.array([1]), np.array([5]), np.array([-1])):
        assembler = CscAssembler(np.array([0]), 2, IDENTITY, dtype=np.float32, source="x")
        assembler.count(0, indptr, np.array([0]))
        with pytest.raises(SourceChangedError):
            assembler.fill(0, indptr, again, data) or assembler.finish()
    assembler = CscAssembler(np.array([0]), 2, IDENTITY, dtype=np.float32, source="x")
    assembler.count(0, indptr, np.array([1]))
    with pytest.raises(SourceChangedError):
        assembler.fill(0, indptr, np.array([0]), data)


@pytest.mark.parametrize("indices", [[0, 1, 1], [2, 0, 2]])
def test_duplicates_are_refused(indices):
    with pytest.raises(HostileFileError, match="row 1 holds gene column") as caught:
        csr_rows(np.array([0, 0, 3]), np.array(indices), np.ones(3), ROWS, IDENTITY, source="x")
    assert caught.value.kind == "duplicate-entry"
    assembler = CooAssembler(np.array([7]), IDENTITY, dtype=np.float32, source="x")
    assembler.add(np.array([7, 7, 7]), np.array(indices), np.array([1, 0, 0], np.float32))
    with pytest.raises(HostileFileError, match="row 7 holds"):
        assembler.finish()


def tables(*triples):
    for row, columns, values in triples:
        yield np.full(len(columns), row), np.array(columns), np.array(values, np.float32)


@pytest.mark.parametrize("first", [[0, 2], [2]])
def test_duplicates_in_different_tables_are_refused(first):
    assembler = CooAssembler(np.array([7, 8]), IDENTITY, dtype=np.float32, source="x")
    for table in tables((7, first, [1] * len(first)), (8, [1], [1]), (7, [2], [3])):
        assembler.add(*table)
    with pytest.raises(HostileFileError, match="row 7 holds gene column 2"):
        assembler.finish()


def test_a_row_whose_later_table_has_earlier_columns():
    assembler = CooAssembler(np.array([7, 8]), IDENTITY, dtype=np.float32, source="x")
    for table in tables((7, [2], [1]), (8, [1], [2]), (7, [0, 1], [3, 4])):
        assembler.add(*table)
    counts = assembler.finish().counts
    np.testing.assert_array_equal(counts.indices, [0, 1, 2, 1])
    np.testing.assert_array_equal(counts.data, [3, 4, 1, 2])


@pytest.mark.parametrize("target", [IDENTITY, GeneMap.between(genes_of("a", "b", "c"), genes_of("a", "c", "b"))])
@pytest.mark.parametrize("column", [-1, 3, 2**40])
def test_a_column_out_of_range_amid_a_run(target, column):
    assembler = CooAssembler(np.array([7]), target, dtype=np.float32, source="x")
    with pytest.raises(HostileFileError, match=f"row 7: column {column} of 3") as caught:
        assembler.add(*next(tables((7, [0, column, 1], [1, 1, 1]))))
    assert caught.value.kind == "index-range"


@pytest.mark.parametrize("order", ["abc", "cba"])
def test_zeros_in_tables_are_dropped_and_counted(order):
    target = GeneMap.between(genes_of(*"abc"), genes_of(*order))
    assembler = CooAssembler(np.array([7, 8]), target, dtype=np.float32, source="x")
    for table in tables((8, [0, 1, 2], [5, 0, 6]), (7, [0, 1, 2], [0, 2, -0.0])):
        assembler.add(*table)
    found = assembler.finish()
    assert (found.zeros_dropped, found.counts.nnz, len(found.counts.indices)) == (3, 3, 3)
    columns = ["abc".index(gene) for gene in order]
    np.testing.assert_array_equal(dense(found.counts), np.array([[0, 2, 0], [5, 0, 6]])[:, columns])


@pytest.mark.parametrize("length", [1, 15, 16, 17, 18, 32, 33, 34, 100])
def test_runs_of_any_length(length):
    genes = genes_of(*(f"g{at}" for at in range(200)))
    identity = GeneMap.between(genes, genes)
    assembler = CooAssembler(np.array([3, 1, 2]), identity, dtype=np.float32, source="x")
    rows = np.repeat([1, 2, 9, 3], [length, 3, length, length])
    columns = np.concatenate([np.arange(length), [0, 1, 2], np.arange(length), np.arange(length) * 2])
    assembler.add(rows, columns, np.arange(1, len(rows) + 1, dtype=np.float32))
    counts = assembler.finish().counts
    np.testing.assert_array_equal(counts.indptr, np.cumsum([0, length, length, 3]))
    np.testing.assert_array_equal(counts.indices, np.concatenate([columns[-length:], columns[: length + 3]]))
    np.testing.assert_array_equal(counts.data[length:], np.arange(1, length + 4))


@pytest.mark.parametrize(
    ("indptr", "kind"), [([1, 2], "start"), ([0, 2, 1], "order"), ([0, 1, 5], "end"), ([], "start")]
)
def test_broken_indptr_is_refused(indptr, kind):
    with pytest.raises(HostileFileError) as caught:
        csr_rows(np.array(indptr), np.zeros(2, np.int32), np.ones(2), np.array([0]), IDENTITY, source="x")
    assert caught.value.kind == f"indptr-{kind}"


def test_a_row_asked_for_twice_or_out_of_range():
    with pytest.raises(SourceError, match="row 5 is asked for twice"):
        CooAssembler(np.array([5, 6, 5]), IDENTITY, dtype=np.float32, source="x")
    with pytest.raises(SourceError, match="twice"):
        CscAssembler(np.array([1, 1]), 2, IDENTITY, dtype=np.float32, source="x")
    with pytest.raises(SourceError, match="of 2"):
        CscAssembler(np.array([2]), 2, IDENTITY, dtype=np.float32, source="x")


def test_rows_outside_the_range_asked_for_are_skipped():
    assembler = CooAssembler(np.array([5, 6]), IDENTITY, dtype=np.float32, source="x")
    assembler.add(np.array([9, 4, 6]), np.array([0, 0, 0]), np.array([1, 1, 3], np.float32))
    np.testing.assert_array_equal(dense(assembler.finish().counts), [[0, 0, 0], [3, 0, 0]])


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        ("f2", "f4"),
        (">f4", "f4"),
        ("f8", "f8"),
        ("?", "i4"),
        ("u1", "i4"),
        ("<u2", "i4"),
        (">i4", "i4"),
        ("u4", "i8"),
        ("u8", "i8"),
    ],
)
def test_plain_values_are_exact(stored, plain):
    values = plain_values(np.array([0, 1, 1], stored), source="x")
    assert values.dtype == np.dtype(plain)
    assert values.dtype.isnative
    assert values.tolist() == [0, 1, 1]


def test_what_is_no_number_is_refused():
    for values in (np.array(["a"]), np.array([1j]), np.zeros(1, np.longdouble)):
        with pytest.raises(NotCountsError, match="no counts"):
            plain_values(values, source="x")
    with pytest.raises(NotCountsError, match="18446744073709551615"):
        plain_values(np.array([2**64 - 1], np.uint64), source="x")
    with pytest.raises(HostileFileError, match="float64"):
        plain_indices(np.array([1.0]), source="x")
    assert plain_indices(np.array([3, 2**64 - 1], np.uint64), source="x").tolist() == [3, -1]


def one(value: float, dtype: str) -> Counts:
    return Counts(np.array([0, 0, 1]), np.zeros(1, np.int32), np.array([value], dtype), 1)


@pytest.mark.parametrize(
    ("value", "stored", "wanted"),
    [
        (2**24 + 1, "f8", "f4"),
        (2**24 + 1, "i4", "f4"),
        (65_536, "f4", "u2"),
        (2.0**31, "f4", "i4"),
        (2**40, "i8", "i4"),
    ],
)
def test_a_count_that_does_not_fit_names_the_largest(value, stored, wanted):
    with pytest.raises(NotCountsError, match=f"row 1, column 0 .*largest value is {value}") as caught:
        convert_counts(one(value, stored), wanted, source="x")
    assert caught.value.kind == "count-overflow"


@pytest.mark.parametrize(
    ("value", "kind"), [(0.5, "fractional"), (-1, "negative"), (np.nan, "nan"), (np.inf, "infinite")]
)
def test_conversion_never_hides_what_is_no_count(value, kind):
    with pytest.raises(NotCountsError) as caught:
        convert_counts(one(value, "f4"), "uint16", source="x")
    assert caught.value.kind == kind


@pytest.mark.parametrize("stored", ["f4", "f8", "i4", "i8"])
@pytest.mark.parametrize("wanted", ["float32", "float64", "int32", "uint16"])
@pytest.mark.parametrize("value", [0, 1, 65_535])
def test_conversion_is_exact(stored, wanted, value):
    converted = convert_counts(one(value, stored), wanted, source="x")
    assert converted.data.dtype == np.dtype(wanted)
    assert converted.data.tolist() == [value]


def test_the_type_delivered():
    assert delivered_dtype("float64", FetchOptions(), integer=True) == np.float32
    assert delivered_dtype("float64", FetchOptions(allow_noninteger=True), integer=False) == np.float64
    assert delivered_dtype("float16", FetchOptions("uint16", allow_noninteger=True), integer=False) == np.float32
    assert delivered_dtype("float64", FetchOptions("uint16", allow_noninteger=True), integer=True) == np.uint16
