from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ingest.block import Block, Counts
from ingest.digest import content_digest, digest_of_digests, levels_of, rows_digest, sums_digest
from ingest.genes import Genes
from ingest.testing.blocks import blocks, dictionary
from ingest.testing.examples import examples


def recut(table, at):
    """Return the same table in two Arrow chunks, every dictionary reversed and with a value nobody has."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            texts = column.to_pylist()
            values = [*sorted({text for text in texts if text is not None}, reverse=True), "nobody"]
            parts = [dictionary(texts[:at], values), dictionary(texts[at:], ["unused", *reversed(values)])]
        else:
            parts = [column.slice(0, at), column.slice(at)]
        columns[name] = pa.chunked_array(parts, type=parts[0].type)
    return pa.table(columns) if columns else table


@settings(max_examples=examples(24))
@given(blocks(), st.data())
def test_equal_content_has_equal_digests_however_arrow_holds_it(block, data):
    other = replace(block, obs=recut(block.obs, data.draw(st.integers(0, block.counts.n_cells))))
    shifted = replace(other, obs_names=pa.concat_arrays([pa.array(["x"]), block.obs_names]).slice(1))
    assert content_digest(other) == content_digest(shifted) == content_digest(block)


def mutations(block):
    """Yield blocks that differ from `block` in one thing."""
    counts, obs = block.counts, block.obs
    for at in range(len(counts.data)):
        data = counts.data.copy()
        data[at] += 1
        yield f"count {at}", replace(block, counts=replace(counts, data=data))
        indices = counts.indices.copy()
        indices[at] = (indices[at] + 1) % counts.n_genes
        if counts.n_genes > 1:
            yield f"index {at}", replace(block, counts=replace(counts, indices=indices))
    for row in range(1, counts.n_cells):
        for step in (-1, 1):
            indptr = counts.indptr.copy()
            indptr[row] += step
            yield f"indptr {row}", replace(block, counts=replace(counts, indptr=indptr))
    other = np.float64 if counts.data.dtype != np.float64 else np.float32
    yield "dtype", replace(block, counts=replace(counts, data=counts.data.astype(other)))
    wide = replace(
        block.genes, ids=(*block.genes.ids, "more"), names=(*block.genes.names, ""), lengths=(*block.genes.lengths, 0)
    )
    yield "one gene more", Block(replace(counts, n_genes=counts.n_genes + 1), obs, block.obs_names, wide)
    if len(block.genes) > 1:
        yield "gene order", replace(block, genes=block.genes.take(range(len(block.genes))[::-1]))
    names = block.obs_names.to_pylist()
    yield "one name", replace(block, obs_names=pa.array([names[0] + "!", *names[1:]]))
    if len(names) > 1:
        yield (
            "a boundary between names",
            replace(block, obs_names=pa.array([names[0] + names[1][0], names[1][1:], *names[2:]])),
        )
    for at, name in enumerate(obs.column_names):
        yield f"without {name}", replace(block, obs=obs.drop_columns([name]))
        yield (
            f"{name} renamed",
            replace(block, obs=obs.rename_columns([n + "2" if n == name else n for n in obs.column_names])),
        )
        yield f"one {name}", replace(block, obs=obs.set_column(at, name, changed(obs[name].combine_chunks())))
    if len(obs.column_names) > 1:
        yield "column order", replace(block, obs=obs.select(obs.column_names[::-1]))


def changed(column):
    values = column.to_pylist()
    if pa.types.is_dictionary(column.type):
        return dictionary([None if values[0] == "other" else "other", *values[1:]])
    if pa.types.is_boolean(column.type):
        return pa.array([not values[0], *values[1:]])
    if pa.types.is_floating(column.type):
        return pa.array([1.0 if values[0] != 1.0 else 2.0, *values[1:]], column.type)
    return pa.array([values[0] ^ 1, *values[1:]], column.type)


@settings(max_examples=examples(24))
@given(blocks())
def test_any_single_change_changes_the_digest(block):
    digest = content_digest(block)
    seen = {}
    for what, other in mutations(block):
        found = content_digest(other)
        assert found != digest, what
        seen[found] = what


def test_swapping_two_texts_is_a_change_though_the_values_are_the_same():
    def digest(*texts):
        counts = Counts(np.zeros(3, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 1)
        return content_digest(
            Block(counts, pa.table({"t": dictionary(texts)}), pa.array(["a", "b"]), Genes(("g",), ("",), (0,)))
        )

    assert (
        len(
            {
                digest("x", "y"),
                digest("y", "x"),
                digest("x", None),
                digest(None, "x"),
                digest("x", "x"),
                digest(None, None),
            }
        )
        == 6
    )


def test_a_missing_value_is_not_an_empty_one():
    assert levels_of(dictionary(["", None])).values == ("",)
    assert levels_of(dictionary(["", None])).codes.tolist() == [0, -1]


def test_levels_are_the_values_present_sorted_by_code_point():
    column = pa.DictionaryArray.from_arrays(
        pa.array([3, 0, None, 3, 5], pa.int32()), pa.array(["b", "unused", "Z", "é", "a", None])
    )
    levels = levels_of(column)
    assert levels.values == ("b", "é")
    assert levels.codes.tolist() == [1, 0, -1, 1, -1]
    repeated = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), pa.array(["a", "a", "b"]))
    assert levels_of(repeated).values == ("a", "b")
    assert levels_of(repeated).codes.tolist() == [0, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**60)), min_size=1, max_size=6), st.data())
def test_rows_digest_is_over_source_coordinate_and_order(rows, data):
    def digest(pairs):
        return rows_digest(np.array([a for a, _ in pairs], np.int32), np.array([b for _, b in pairs], np.int64))

    other = data.draw(st.permutations(rows))
    assume(other != rows)
    assert digest(rows) == digest(list(rows))
    assert digest(rows) != digest(other)
    assert digest(rows) != digest([*rows[:-1], (rows[-1][0], rows[-1][1] + 1)])
    assert digest(rows) != digest([(rows[0][0] + 1, rows[0][1]), *rows[1:]])
    assert digest(rows) != digest(rows[:-1])


def test_sums_digest_does_not_depend_on_the_width_of_numbers():
    sums, n_genes = np.array([3, 4]), np.array([1, 2])
    assert sums_digest(sums.astype(np.int64), n_genes.astype(np.int32)) == sums_digest(sums.astype(np.float64), n_genes)
    assert sums_digest(sums, n_genes) != sums_digest(n_genes, sums)


@pytest.mark.parametrize(("a", "b"), [(["ab", "c"], ["a", "bc"]), (["a", "b"], ["b", "a"]), ([], [""])])
def test_digest_of_digests_is_over_a_sequence(a, b):
    assert digest_of_digests(a) != digest_of_digests(b)
