"""Dense files: what plain h5py makes of them, that pieces and threads leave no trace, that memory never holds them."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from dataclasses import replace
from itertools import pairwise

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.block import Counts
from ingest.digest import content_digest
from ingest.encode.base import encode_block
from ingest.encode.decode import decode_chunk
from ingest.encode.guard import most_bytes
from ingest.encode.open import CODECS, open_codec
from ingest.encode.row_stream import rows_in_block
from ingest.encode.sizes import FileKind
from ingest.errors import CorruptError, SourceError
from ingest.testing.blocks import blocks, dictionary, seeded_block
from ingest.testing.examples import examples

KEY = "chunks/chunk_000000.h5"


def written(block, codec="deflate", level=1):
    return encode_block(open_codec("h5", codec, level), block)


def in_pieces(codec, block, cuts, dtype=None):
    """Encode `block`, its cells cut before each row of `cuts`."""
    encoder = codec.begin(block.genes, dtype or block.counts.data.dtype.name)
    for start, stop in pairwise([0, *sorted(cuts), block.counts.n_cells]):
        encoder.add(block.counts.rows(start, stop))
    return encoder.finish(block.obs, block.obs_names)


def dense(counts):
    matrix = np.zeros((counts.n_cells, counts.n_genes), counts.data.dtype)
    rows = np.repeat(np.arange(counts.n_cells), np.diff(counts.indptr))
    matrix[rows, counts.indices] = counts.data
    return matrix


def big_block(seed=0, dtype=np.int16, n_cells=160, density=0.1):
    """Return cells that fill several HDF5 chunks of 65 rows, the last one in part."""
    kinds = dictionary([("a", "b", None)[at % 3] for at in range(n_cells)])
    return seeded_block(n_cells, 4_000, {"t": kinds}, density=density, dtype=dtype, seed=seed)


def with_count(block, row, count, dtype=np.int32):
    """Return the same cells with another first count in `row`."""
    data = block.counts.data.astype(dtype)
    data[block.counts.indptr[row]] = count
    return replace(block, counts=replace(block.counts, data=data))


# Forth and back


@settings(max_examples=examples(24), deadline=None)
@given(blocks(), st.sampled_from(CODECS), st.integers(0, 9), st.data())
def test_any_block_comes_back_from_any_codec_in_any_pieces(block, codec, level, data):
    cuts = data.draw(st.lists(st.integers(0, block.counts.n_cells), max_size=3))
    whole = written(block, codec, level)
    again = decode_chunk(whole.data, key=KEY)
    assert content_digest(again) == content_digest(block) == whole.content
    assert again.counts.data.dtype == block.counts.data.dtype == whole.dtype
    assert again.genes == block.genes
    assert again.obs_names == block.obs_names
    assert again.obs.column_names == block.obs.column_names
    assert in_pieces(open_codec("h5", codec, level), block, cuts).data == whole.data


@settings(max_examples=examples(16), deadline=None)
@given(blocks())
def test_both_formats_digest_the_same_cells_alike(block):
    assert written(block).content == encode_block(open_codec("h5ad", "deflate", 1), block).content


@settings(max_examples=examples(16), deadline=None)
@given(blocks())
def test_plain_h5py_reads_the_same(block):
    with h5py.File(io.BytesIO(written(block).data)) as file:
        matrix = dense(block.counts)
        assert file["X"].dtype == matrix.dtype
        np.testing.assert_array_equal(file["X"][()], matrix)
        assert file["genes"].asstr()[()].tolist() == list(block.genes.ids)
        assert file["cells"].asstr()[()].tolist() == block.obs_names.to_pylist()
        assert file["obs/gene_count"][()].tolist() == (matrix > 0).sum(axis=1).tolist()
        assert file["obs/umi_count"][()].tolist() == matrix.astype(np.float64).sum(axis=1).tolist()
        assert {file["obs"][name].shape for name in file["obs"]} == {(len(matrix),)}
        for name in block.obs.column_names:
            wanted, node = block.obs[name].to_pylist(), file["obs"][name]
            if pa.types.is_dictionary(block.obs[name].type):
                missing = node.attrs.get("missing")
                assert [None if text == missing else text for text in node.asstr()[()]] == wanted
                assert (missing is None) == (None not in wanted)
            else:
                np.testing.assert_array_equal(node[()], np.array(wanted, node.dtype))


@pytest.mark.parametrize(
    ("texts", "missing"),
    [
        ([None, "a", None], ""),
        (["", "a", None], "missing"),
        (["", "missing", None], "missing_"),
        ([None, None, None], ""),
        (["", "a", "b"], None),
    ],
)
def test_a_missing_text_is_one_that_no_cell_has(texts, missing):
    block = seeded_block(3, 2, {"t": dictionary(texts)})
    data = written(block).data
    assert decode_chunk(data, key=KEY).obs["t"].to_pylist() == texts
    with h5py.File(io.BytesIO(data)) as file:
        assert file["obs/t"].attrs.get("missing") == missing


def test_what_the_index_says_of_counts_stands_beside_what_x_says():
    said = {
        "gene_count": pa.array([7, 8, 9]),
        "SRX_accession": dictionary(["SRX1", "SRX1", "SRX2"]),
        "index_gene_count": pa.array([1, 2, 3]),
        "umi_count": pa.array([0.5, 0.5, 0.5]),
    }
    block = seeded_block(3, 50, said, dtype=np.int16)
    data = written(block).data
    with h5py.File(io.BytesIO(data)) as file:
        assert file["obs/gene_count"][()].tolist() == np.diff(block.counts.indptr).tolist()
        assert file["obs/umi_count"][()].tolist() == dense(block.counts).sum(axis=1).tolist()
        assert file["obs/index_index_gene_count"][()].tolist() == [7, 8, 9]
        assert file["obs/index_gene_count"][()].tolist() == [1, 2, 3]
        assert file["obs/index_umi_count"][()].tolist() == [0.5, 0.5, 0.5]
        assert file["obs/SRX_accession"].asstr()[()].tolist() == ["SRX1", "SRX1", "SRX2"]
    again = decode_chunk(data, key=KEY)
    assert content_digest(again) == content_digest(block)
    assert again.obs["gene_count"].to_pylist() == [7, 8, 9]


# Where blocks are cut


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("density", [0.02, 0.6])
def test_pieces_and_threads_leave_no_trace(codec, density):
    block = big_block(density=density)
    one, two = open_codec("h5", codec, 1), open_codec("h5", codec, 1, threads=2)
    whole = encode_block(one, block)
    rng = np.random.default_rng(1)
    for n_cuts in (1, 5, 159):
        cuts = rng.choice(160, n_cuts, replace=False)
        assert in_pieces(two, block, cuts).data == in_pieces(one, block, cuts).data == whole.data
    assert encode_block(two, block).offsets == whole.offsets
    two.close()
    assert content_digest(decode_chunk(whole.data, key=KEY)) == whole.content == content_digest(block)


def test_nothing_of_the_pieces_is_kept():
    block = big_block()
    codec = open_codec("h5", "deflate", 1, threads=2)
    encoder = codec.begin(block.genes, "int16")
    for start in range(0, 160, 40):
        piece = block.counts.rows(start, start + 40)
        piece = replace(piece, indices=piece.indices.copy(), data=piece.data.copy())
        encoder.add(piece)
        for array in (piece.indptr, piece.indices, piece.data):
            array[:] = 0
    assert encoder.finish(block.obs, block.obs_names).data == written(block).data
    codec.close()


@pytest.mark.parametrize(
    ("n_genes", "n_rows"), [(1, 1024), (200, 1024), (36_601, 7), (60_530, 4), (262_144, 1), (300_000, 1)]
)
def test_a_row_costs_one_hdf5_chunk(n_genes, n_rows):
    n_cells = n_rows + 1
    indptr = np.arange(n_cells + 1, dtype=np.int64)
    counts = Counts(indptr, np.full(n_cells, n_genes - 1, np.int32), np.ones(n_cells, np.int16), n_genes)
    encoder = open_codec("h5", "deflate", 1).begin(seeded_block(1, n_genes).genes, "int16")
    encoder.add(counts)
    cells = pa.array([str(at) for at in range(n_cells)])
    data = encoder.finish(pa.table({"cell": cells.dictionary_encode()}), cells).data
    with h5py.File(io.BytesIO(data)) as file:
        assert file["X"].chunks == (n_rows, n_genes)
        assert n_rows == rows_in_block(n_genes)
        assert file["X"].id.get_num_chunks() == 2
        assert n_rows == 1 or n_rows * n_genes * 4 <= 1 << 20, "what HDF5 keeps of a file by default"
        assert file["X"][n_rows].nonzero()[0].tolist() == [n_genes - 1]


@pytest.mark.parametrize("codec", ["deflate", "none"])
@pytest.mark.parametrize(("n_cells", "density"), [(1, 0.0), (3, 1.0), (65, 0.1), (160, 0.1)], ids=str)
def test_offsets_locate_the_stored_rows(codec, n_cells, density):
    """Inflate and unshuffle by hand, without HDF5."""
    block = big_block(n_cells=n_cells, density=density)
    encoded, rows = written(block, codec), []
    (part,) = encoded.offsets
    assert part.dataset == "X"
    for offset, size in zip(part.offsets, part.sizes, strict=True):
        raw = bytes(encoded.data[offset : offset + size])
        if codec == "deflate":
            raw = np.frombuffer(zlib.decompress(raw), np.uint8).reshape(2, -1).T.tobytes()
        rows.append(np.frombuffer(raw, np.int16).reshape(part.chunk_shape))
    found = np.concatenate(rows)
    np.testing.assert_array_equal(found[:n_cells], dense(block.counts))
    assert not found[n_cells:].any()


# Types


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("row", [0, 64, 65, 131, 159])
def test_a_count_beyond_int16_widens_the_file_wherever_it_comes(codec, row):
    narrow = in_pieces(open_codec("h5", codec, 1), with_count(big_block(), row, 32_767), [50, 131], "int16")
    assert narrow.dtype == "int16"
    wide_block = with_count(big_block(), row, 32_768)
    for threads in (1, 2):
        codec_of = open_codec("h5", codec, 1, threads=threads)
        wide = in_pieces(codec_of, wide_block, [50, 131, 159], "int16")
        codec_of.close()
        assert wide.dtype == "int32"
        assert wide.data == written(wide_block, codec).data, "as if it had been int32 from the start"
        assert wide.content == content_digest(wide_block)
    with h5py.File(io.BytesIO(wide.data)) as file:
        assert file["X"].dtype == np.int32
        if codec in ("deflate", "none"):
            np.testing.assert_array_equal(file["X"][()], dense(wide_block.counts))


def test_fractions_keep_their_type_and_their_sums():
    rng = np.random.default_rng(0)
    block = big_block()
    for dtype in (np.float32, np.float64):
        mine = replace(block, counts=replace(block.counts, data=rng.random(block.counts.nnz).astype(dtype)))
        encoded = in_pieces(open_codec("h5", "deflate", 1), mine, [70], "float32")
        assert encoded.dtype == np.dtype(dtype).name
        again = decode_chunk(encoded.data, key=KEY)  # which adds them up once more
        assert (again.counts.data == mine.counts.data).all()
        with h5py.File(io.BytesIO(encoded.data)) as file:
            assert file["obs/umi_count"].dtype == np.float64
            np.testing.assert_allclose(file["obs/umi_count"][()], dense(mine.counts).sum(axis=1, dtype=np.float64))


def test_sums_beyond_32_bits_are_exact():
    counts = Counts(np.array([0, 3]), np.arange(3, dtype=np.int32), np.full(3, 2**31 - 1, np.int32), 3)
    block = replace(seeded_block(1, 3), counts=counts)
    with h5py.File(io.BytesIO(in_pieces(open_codec("h5", "deflate", 1), block, [], "int16").data)) as file:
        assert file["obs/umi_count"][()].tolist() == [3 * (2**31 - 1)]


# Memory

PEAK = """
import resource, sys
import numpy as np, pyarrow as pa
from ingest.block import Counts
from ingest.encode.open import open_codec
from ingest.genes import Genes

n_cells, n_genes, per_cell = 10_000, 36_601, 300
names = tuple(f"g{at}" for at in range(n_genes))
genes = Genes(names, names, (0,) * n_genes)
step = n_genes // per_cell
columns = np.tile(np.arange(0, step * per_cell, step, dtype=np.int32), 20)
indptr = np.arange(0, 20 * per_cell + 1, per_cell, dtype=np.int64)
def piece(count):
    data = np.ones(len(columns), np.int32)
    data[-1] = count
    return Counts(indptr, columns, data, n_genes)
def encode(n_cells, last):
    encoder = open_codec("h5", "deflate", 1).begin(genes, "int16")
    for _ in range(n_cells // 20 - 1):
        encoder.add(piece(1))
    encoder.add(piece(last))
    cells = pa.array([str(at) for at in range(n_cells)])
    return encoder.finish(pa.table({"cell": cells.dictionary_encode()}), cells)
encode(40, 40_000)  # compiled and imported
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
encoded = encode(n_cells, int(sys.argv[1]))
print(encoded.dtype, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, len(encoded.data))
"""


@pytest.mark.parametrize(("count", "dtype"), [(1, "int16"), (40_000, "int32")])
def test_a_chunk_is_never_dense_in_memory_even_where_its_last_count_widens_it(count, dtype):
    done = subprocess.run([sys.executable, "-c", PEAK, str(count)], capture_output=True, text=True, check=True)
    found, peak_bytes, size_bytes = done.stdout.split()
    assert found == dtype
    dense_bytes = 10_000 * 36_601 * 2
    assert int(peak_bytes) < dense_bytes / 20
    # What it is projected to take: its blocks, and the file that they become.
    kind = FileKind("h5", "deflate", "int16")
    assert int(size_bytes) < kind.most_bytes(10_000 * 300, 10_000, 36_601) + kind.table_bytes(36_601)


@pytest.mark.parametrize("codec", CODECS)
def test_nbytes_is_what_is_held(codec):
    block = big_block()
    encoder = open_codec("h5", codec, 1).begin(block.genes, "int16")
    assert encoder.nbytes < 100
    for _ in range(4):
        encoder.add(block.counts)
    window = 65 * 4_000 * 2
    stored = 640 * 4_000 * 2 if codec == "none" else 4 * 4 * block.counts.nnz
    assert block.counts.nnz < encoder.nbytes < stored + window + 640 * 12


@settings(max_examples=examples(10), deadline=None)
@given(
    st.sampled_from([("h5", "int16"), ("h5", "int32"), ("h5", "float32"), ("h5ad", "float32"), ("h5ad", "uint16")]),
    st.sampled_from(CODECS),
    st.sampled_from([0, 1]),
    st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    st.integers(0, 3),
)
def test_no_file_is_larger_than_it_is_projected_to_be(kind, codec, level, density, seed):
    block = seeded_block(300, 3_000, density=density, dtype=kind[1], seed=seed)
    encoded = encode_block(open_codec(kind[0], codec, level), block)
    projected = FileKind(kind[0], codec, kind[1])
    rest = projected.table_bytes(3_000) + 300 * 400 + (1 << 15)
    if codec == "none":
        rest += 3_000 * 50  # a gene table that is not compressed, either
    assert len(encoded.data) < projected.most_bytes(block.counts.nnz, 300, 3_000) + rest


# What a caller does wrong, and what no file can hold


def test_cells_and_names_must_match():
    block = seeded_block(4, 3)
    codec = open_codec("h5", "deflate", 1)
    encoder = codec.begin(block.genes, "float32")
    with pytest.raises(ValueError, match="3 genes in a file of 2"):
        codec.begin(block.genes.take([0, 1]), "float32").add(block.counts)
    encoder.add(block.counts.rows(0, 3))
    with pytest.raises(ValueError, match="3 cells with 4 obs rows and 4 names"):
        encoder.finish(block.obs, block.obs_names)


def test_a_stored_zero_is_refused_since_it_would_not_come_back():
    counts = Counts(np.array([0, 2]), np.array([0, 1], np.int32), np.array([3, 0], np.int32), 2)
    encoder = open_codec("h5", "deflate", 1).begin(seeded_block(1, 2).genes, "int16")
    with pytest.raises(ValueError, match="stored zeros"):
        encoder.add(counts)


@pytest.mark.parametrize("what", ["name", "category", "gene"])
def test_a_nul_character_is_refused(what):
    block = seeded_block(2, 2, {"t": dictionary(["a\0" if what == "category" else "a", "b"])})
    if what == "name":
        block = replace(block, obs_names=pa.array(["a", "b\0c"]))
    if what == "gene":
        block = replace(block, genes=replace(block.genes, names=("a\0b", "c")))
    with pytest.raises(SourceError) as caught:
        written(block)
    assert caught.value.kind == "nul-in-text"


# Hostile and damaged files


def changed(break_it, block=None, codec="deflate"):
    buffer = io.BytesIO(written(block or big_block(n_cells=70), codec).data)
    with h5py.File(buffer, "r+") as file:
        break_it(file)
    return buffer.getvalue()


def put(path, value, **settings):
    """Return what replaces a dataset."""

    def replace_it(file):
        attributes = dict(file[path].attrs)
        del file[path]
        file.create_dataset(path, data=value, **settings).attrs.update(attributes)

    return replace_it


def unshuffled_block(file):
    """As HDF5 allows, and reads: the first block says that it was not shuffled."""
    rows = file["X"][:65]
    file["X"].id.write_direct_chunk((0, 0), zlib.compress(rows.tobytes()), filter_mask=1)
    assert (file["X"][:65] == rows).all()


def block_of(n_bytes):
    return lambda file: file["X"].id.write_direct_chunk((0, 0), zlib.compress(bytes(n_bytes)))


def declare(path, shape, dtype="i2", **settings):
    def declare_it(file):
        attributes = dict(file[path].attrs)
        del file[path]
        file.create_dataset(path, shape, dtype, **settings).attrs.update(attributes)

    return declare_it


X = np.zeros((70, 4_000), np.int16)
GZIP = {"compression": "gzip", "shuffle": True}
HOSTILE = [
    (lambda file: file.pop("X"), "X"),
    (lambda file: (file.pop("X"), file.create_group("X")), "no matrix of counts"),
    (put("X", h5py.Empty("i2")), "no matrix of counts"),
    (put("X", X[0]), "no matrix of counts"),
    (put("X", X.astype(np.complex64)), "no matrix of counts"),
    (put("X", X.astype(np.int8)), "no matrix of counts"),
    (put("X", X.astype("S2")), "no matrix of counts"),
    (put("X", X[:, :-1]), "genes of shape"),
    (put("X", X[:-1]), "cells of shape"),
    (put("X", X, chunks=(65, 2_000), **GZIP), "not stored in whole rows"),
    (declare("X", (70, 4_000), chunks=(65, 4_000), **GZIP), "not stored in whole rows"),
    (declare("X", (70, 4_000), maxshape=(None, 4_000), chunks=(1 << 16, 4_000), **GZIP), "not stored in whole rows"),
    (declare("X", (1 << 40, 4_000), chunks=(65, 4_000), **GZIP), "not stored in whole rows"),
    (declare("X", (1 << 40, 4_000), chunks=(65, 4_000)), "not stored in whole rows"),
    (declare("obs/t", (1 << 40,), "S36", chunks=(1 << 10,)), "declare"),
    (declare("genes", (1 << 33,), "S15", chunks=(1 << 10,)), "declare"),
    (declare("var/feature_name", (1 << 33,), "S15", chunks=(1 << 10,)), "declare"),
    (lambda file: file.create_dataset("more", (1 << 33,), "i8", chunks=(1 << 10,)), "declare"),
    (unshuffled_block, "without their filters"),
    (block_of(100), "block of X"),
    (block_of(65 * 4_000 * 2 + 1), "chunk_000000"),
    (lambda file: file["X"].write_direct(X), "gene_count is not the number of genes in row 0"),
    (put("obs/gene_count", np.zeros(70, np.int32)), "gene_count is not the number of genes in row 0"),
    (put("obs/gene_count", np.full(70, -1)), "no numbers of genes"),
    (put("obs/gene_count", np.full(70, 4_001)), "no numbers of genes"),
    (put("obs/gene_count", np.full(70, 2**62)), "no numbers of genes"),
    (put("obs/gene_count", np.full(70, 0.5)), "no numbers of genes"),
    (put("obs/gene_count", np.array([b"a"] * 70)), "no numbers of genes"),
    (put("obs/gene_count", np.zeros(69, np.int32)), "gene_count of shape"),
    (put("obs/umi_count", np.zeros(70, np.int64)), "umi_count of row 0 is 0, but X adds up to"),
    (put("obs/umi_count", np.zeros(69, np.int64)), "umi_count of shape"),
    (put("cells", np.array([b"a"] * 69)), "cells of shape"),
    (put("genes", np.array([b"a"] * 4_000)), "stands twice"),
    (put("genes", np.array([b"a", b"b"])), "genes of shape"),
    (put("obs/t", np.array([b"a"] * 69)), "obs/t of shape"),
    (put("obs/t", np.array([b"a"] * 70).reshape(70, 1)), "obs/t of shape"),
    (put("obs/t", np.array([b"\xff"] * 70)), "utf-8"),
    (lambda file: file.pop("genes"), "genes"),
    (lambda file: file.pop("var"), "var"),
    (lambda file: file.pop("obs"), "not found"),
    (lambda file: file["obs"].attrs.pop("column-order"), "column-order"),
    (lambda file: file["obs"].attrs.update({"column-order": ["nothing"]}), "nothing"),
]


@pytest.mark.parametrize(("break_it", "said"), HOSTILE, ids=[f"{at}-{said}" for at, (_, said) in enumerate(HOSTILE)])
def test_contradictions_and_bombs_are_corruption(break_it, said):
    with pytest.raises(CorruptError) as caught:
        decode_chunk(changed(break_it), key=KEY)
    assert caught.value.kind == "undecodable-chunk"
    assert KEY in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize("detour", ["external link", "soft link", "external storage", "virtual dataset"])
@pytest.mark.parametrize("path", ["X", "obs/t"])
def test_a_chunk_that_leads_into_another_file_is_not_followed(detour, path, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = np.ones((70, 4_000), np.int16)

    def lead_away(file):
        shape = file[path].shape
        del file[path]
        if detour == "external link":
            file[path] = h5py.ExternalLink(str(secret), "data")
        elif detour == "soft link":
            file[path] = h5py.SoftLink("/genes")
        elif detour == "external storage":
            file.create_dataset(path, shape, np.int16, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout(shape, np.int16)
            layout[:] = h5py.VirtualSource(str(secret), "data", shape)
            file.create_virtual_dataset(path, layout)

    with pytest.raises(CorruptError, match=path):
        decode_chunk(changed(lead_away), key=KEY)


def test_a_file_of_one_format_does_not_pass_for_the_other():
    block = seeded_block(5, 4)
    dense_file, sparse_file = written(block).data, encode_block(open_codec("h5ad", "deflate", 1), block).data
    for data, key in ((dense_file, "chunks/chunk_000000.h5ad"), (sparse_file, KEY)):
        with pytest.raises(CorruptError):
            decode_chunk(data, key=key)


def test_counts_that_would_fill_memory_are_not_made(monkeypatch):
    """A matrix of ones deflates to a thousandth; as CSR it would be three thousand times the file."""
    data = written(seeded_block(160, 4_000, density=1.0, dtype=np.int16)).data
    decode_chunk(data, key=KEY)
    monkeypatch.setattr("ingest.encode.decode.most_bytes", lambda _size: 160 * 4_000)
    with pytest.raises(CorruptError, match="more than is believed"):
        decode_chunk(data, key=KEY)
    assert most_bytes(len(data)) > 1 << 30


def test_a_flipped_byte_in_the_rows_is_corruption():
    encoded = written(seeded_block(6, 50, dtype=np.int16))
    (part,) = encoded.offsets
    whole = bytes(encoded.data)
    for at in range(part.offsets[0], part.offsets[0] + part.sizes[0]):
        with pytest.raises(CorruptError):
            decode_chunk(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :], key=KEY)


# Readers in processes of their own

PLAIN = """
import sys, h5py
with h5py.File(sys.argv[1]) as file:
    print(int(file["X"][:].sum()), int((file["X"][3] != 0).sum()), file["genes"][1].decode(), file["cells"][2].decode())
assert "hdf5plugin" not in sys.modules
"""


@pytest.mark.parametrize("codec", CODECS)
def test_a_process_that_knows_h5py_alone(codec, tmp_path):
    block = big_block()
    path = tmp_path / "chunk.h5"
    path.write_bytes(written(block, codec).data)
    done = subprocess.run([sys.executable, "-c", PLAIN, str(path)], capture_output=True, text=True, check=False)
    if codec in {"deflate", "none"}:
        n_genes = int(np.diff(block.counts.indptr)[3])
        wanted = [str(block.counts.data.sum()), str(n_genes), block.genes.ids[1], block.obs_names[2].as_py()]
        assert done.stdout.split() == wanted, done.stderr
    else:
        assert "plugin" in done.stderr


def test_other_peoples_filters_and_byte_order_are_read_too():
    """A file that somebody has rewritten with h5py's own gzip, say to mend an attribute, holds the same cells."""
    block = big_block()
    rows = {"chunks": (9, 4_000)}
    for settings_of in ({**rows, **GZIP}, {**rows, "compression": 4}, rows, {}):
        data = changed(put("X", dense(block.counts).astype(">i2"), **settings_of), block)
        assert content_digest(decode_chunk(data, key=KEY)) == content_digest(block)


def test_names_that_only_h5_has_are_no_columns_of_the_block():
    assert decode_chunk(written(seeded_block(2, 2)).data, key=KEY).obs.column_names == ["soma_joinid"]
