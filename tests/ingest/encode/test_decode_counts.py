"""Counts alone, piece by piece: what `decode_chunk` gives, in bounded bites."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.encode.base import encode_block
from ingest.encode.decode import decode_chunk, decode_counts, decode_names
from ingest.encode.open import CODECS, open_codec
from ingest.errors import CorruptError
from ingest.testing.blocks import blocks, seeded_block


def encoded(block, codec="deflate"):
    return bytes(encode_block(open_codec("h5ad", codec, 1), block).data)


@given(blocks(), st.integers(1, 12), st.sampled_from(CODECS))
def test_pieces_put_together_are_the_chunk(block, most_entries, codec):
    data = encoded(block, codec)
    whole, pieces = decode_chunk(data, key="k").counts, list(decode_counts(data, key="k", most_entries=most_entries))
    assert sum(piece.n_cells for piece in pieces) == whole.n_cells
    assert all(piece.n_genes == whole.n_genes and piece.indptr[0] == 0 for piece in pieces)
    for name in ("indices", "data"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        assert np.array_equal(joined, getattr(whole, name))
        assert joined.dtype == getattr(whole, name).dtype
    assert np.array_equal(np.concatenate([np.diff(piece.indptr) for piece in pieces]), np.diff(whole.indptr))


def test_a_piece_is_no_larger_than_asked_but_for_a_row_that_is():
    data = encoded(seeded_block(60, 200, density=0.5))
    sizes = [(piece.nnz, piece.n_cells) for piece in decode_counts(data, key="k", most_entries=350)]
    assert all(nnz <= 350 or n_cells == 1 for nnz, n_cells in sizes)
    assert len(sizes) > 15
    assert all(n == 1 for _, n in ((p.nnz, p.n_cells) for p in decode_counts(data, key="k", most_entries=1)))


BLOCK = seeded_block(5, 8)
NNZ = BLOCK.counts.nnz


def altered(change):
    file = io.BytesIO(encoded(BLOCK))
    with h5py.File(file, "r+") as opened:
        change(opened)
    return file.getvalue()


def rewrite(name, values):
    def change(file):
        del file["X"][name]
        file["X"][name] = values

    return change


def column_wise(file):
    file["X"].attrs["encoding-type"] = "csc_matrix"


@pytest.mark.parametrize(
    "change",
    [
        rewrite("indptr", np.array([0, 3, 2, 4, 5, NNZ])),
        rewrite("indptr", np.array([1, 2, 2, 4, 5, NNZ])),
        rewrite("indptr", np.array([0, 3])),
        rewrite("data", np.ones(2, np.float32)),
        column_wise,
        lambda file: file.__delitem__("X"),
    ],
    ids=["falls", "starts late", "short", "few values", "csc", "no X"],
)
def test_contradictions_are_corrupt(change):
    with pytest.raises(CorruptError, match="k is no readable chunk") as caught:
        list(decode_counts(altered(change), key="k", most_entries=10))
    assert (caught.value.kind, caught.value.key) == ("undecodable-chunk", "k")


def test_counts_in_another_file_are_not_followed(tmp_path):
    """The other file exists and has exactly what is missing: following the link would go unnoticed."""
    (tmp_path / "other.h5ad").write_bytes(encoded(BLOCK))

    def link(file):
        del file["X"]["data"]
        file["X"]["data"] = h5py.ExternalLink(str(tmp_path / "other.h5ad"), "/X/data")

    with pytest.raises(CorruptError, match="X/data is a ExternalLink"):
        list(decode_counts(altered(link), key="k", most_entries=10))


@pytest.mark.parametrize("size", [0, 2**64 - 16])
@pytest.mark.parametrize("read", [decode_chunk, partial(decode_counts, most_entries=10), decode_names])
def test_a_heap_that_hdf5_would_walk_for_ever_is_corrupt(read, size):
    """Names of attributes' texts lie in it; a size of its first object leads the walk back to where it is."""
    data = bytearray(encoded(BLOCK))
    at = data.find(b"GCOL")
    while at >= 0:
        data[at + 16 : at + 18] = (0 if size == 0 else 1).to_bytes(2, "little")
        data[at + 24 : at + 32] = size.to_bytes(8, "little")
        at = data.find(b"GCOL", at + 1)
    with pytest.raises(CorruptError, match="the heap of texts at byte") as caught:
        list(read(bytes(data), key="k.h5ad"))
    assert caught.value.kind == "undecodable-chunk"


def test_what_is_no_file_is_corrupt():
    with pytest.raises(CorruptError):
        list(decode_counts(b"not HDF5", key="k", most_entries=10))


@pytest.mark.parametrize("most_entries", [1, 30, 10_000])
def test_dense_chunks_come_in_pieces_of_wider_integers(most_entries):
    block = seeded_block(9, 20)
    block = replace(block, counts=replace(block.counts, data=block.counts.data.astype(np.int16)))
    data = encode_block(open_codec("h5", "deflate", 1), block).data
    pieces = list(decode_counts(data, key="k.h5", most_entries=most_entries))
    assert {piece.data.dtype.name for piece in pieces} == {"int32"}
    np.testing.assert_array_equal(np.concatenate([piece.data for piece in pieces]), block.counts.data)
    np.testing.assert_array_equal(np.concatenate([piece.indices for piece in pieces]), block.counts.indices)
    assert all(piece.nnz <= most_entries or piece.n_cells == 1 for piece in pieces)


@pytest.mark.parametrize("format_name", ["h5ad", "h5"])
def test_names_alone_are_those_of_the_whole_chunk(format_name):
    block = seeded_block(30, 40)
    data = encode_block(open_codec(format_name, "deflate", 1), block).data
    assert decode_names(data, key=f"c.{format_name}") == block.obs_names
    for broken in (data[:200], b"no file"):
        with pytest.raises(CorruptError, match="is no readable chunk"):
            decode_names(broken, key=f"c.{format_name}")
