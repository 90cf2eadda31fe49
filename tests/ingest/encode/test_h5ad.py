"""The files: what plain readers make of them, that pieces and threads leave no trace, their size."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from dataclasses import replace
from itertools import pairwise

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.block import Block, Counts
from ingest.digest import content_digest
from ingest.encode.base import encode_block
from ingest.encode.decode import decode_chunk, decode_names
from ingest.encode.open import CODECS, open_codec
from ingest.errors import CorruptError, SourceError
from ingest.genes import Genes
from ingest.testing.blocks import blocks, dictionary, seeded_block
from ingest.testing.census_genes import draw_genes
from ingest.testing.examples import examples
from ingest.testing.hostile.h5ad_texts import TEXTS
from ingest.testing.watch import watched_memory


def written(block, codec="deflate", level=1):
    return encode_block(open_codec("h5ad", codec, level), block)


def in_pieces(codec, block, cuts, dtype=None):
    """Encode `block`, its cells cut before each row of `cuts`."""
    counts = block.counts
    encoder = codec.begin(block.genes, dtype or counts.data.dtype.name)
    rows = [0, *sorted(cuts), counts.n_cells]
    for start, stop in pairwise(rows):
        encoder.add(counts.rows(start, stop))
    return encoder.finish(block.obs, block.obs_names)


def big_block(seed=0, dtype=np.float32):
    """Return cells whose 190,000 entries fill several HDF5 chunks."""
    return seeded_block(160, 4_000, {"t": dictionary(["a", "b"] * 80)}, density=0.3, dtype=dtype, seed=seed)


@settings(max_examples=examples(16))
@given(blocks(), st.sampled_from(CODECS), st.integers(0, 9), st.data())
def test_any_block_comes_back_from_any_codec_in_any_pieces(block, codec, level, data):
    cuts = data.draw(st.lists(st.integers(0, block.counts.n_cells), max_size=3))
    whole = written(block, codec, level)
    again = decode_chunk(whole.data, key="k")
    assert content_digest(again) == content_digest(block) == whole.content
    assert again.counts.data.dtype == block.counts.data.dtype == whole.dtype
    assert again.genes == block.genes
    assert in_pieces(open_codec("h5ad", codec, level), block, cuts).data == whole.data


@pytest.mark.parametrize("codec", CODECS)
def test_pieces_and_threads_leave_no_trace(codec):
    block = big_block()
    one, two = open_codec("h5ad", codec, 1), open_codec("h5ad", codec, 1, threads=2)
    whole = encode_block(one, block)
    rng = np.random.default_rng(1)
    for n_cuts in (1, 5, 159):
        cuts = rng.choice(160, n_cuts, replace=False)
        assert in_pieces(two, block, cuts).data == in_pieces(one, block, cuts).data == whole.data
    assert encode_block(two, block).offsets == whole.offsets
    two.close()
    again = decode_chunk(whole.data, key="k")
    assert content_digest(again) == whole.content == content_digest(block)
    assert (again.counts.data == block.counts.data).all()
    assert (again.counts.indices == block.counts.indices).all()


def test_two_files_at_once_do_not_mix():
    codec = open_codec("h5ad", "deflate", 1, threads=2)
    first, second = big_block(), big_block(seed=1)
    encoders = [codec.begin(block.genes, "float32") for block in (first, second)]
    for start in range(0, 160, 20):
        for encoder, block in zip(encoders, (first, second), strict=True):
            encoder.add(block.counts.rows(start, start + 20))
    for encoder, block in zip(encoders, (first, second), strict=True):
        assert encoder.finish(block.obs, block.obs_names).data == written(block).data
    codec.close()


def test_nothing_of_the_pieces_is_kept():
    block = big_block()
    codec = open_codec("h5ad", "deflate", 1, threads=2)
    encoder = codec.begin(block.genes, "float32")
    for start in range(0, 160, 40):
        piece = block.counts.rows(start, start + 40)
        piece = replace(piece, indices=piece.indices.copy(), data=piece.data.copy())
        encoder.add(piece)
        for array in (piece.indptr, piece.indices, piece.data):
            array[:] = 0
    assert encoder.finish(block.obs, block.obs_names).data == written(block).data
    codec.close()


@pytest.mark.parametrize("codec", CODECS)
def test_nbytes_is_what_is_held(codec):
    block = big_block()
    encoder = open_codec("h5ad", codec, 1).begin(block.genes, "float32")
    assert encoder.nbytes < 100
    for _ in range(4):
        encoder.add(block.counts)
    rest = 2 * 4 * 65_536
    stored = block.counts.indices.nbytes * 8 if codec == "none" else 4 * block.counts.nnz * 3
    assert block.counts.nnz < encoder.nbytes < stored + rest


def oracle(block):
    """Return `block` as pandas and scipy have it: how a file of anndata's own would be read."""
    obs = {}
    for name in block.obs.column_names:
        values = block.obs[name].to_pylist()
        if pa.types.is_dictionary(block.obs[name].type):
            present = sorted({value for value in values if value is not None})
            obs[name] = pd.Categorical(values, categories=pd.Index(present, dtype=object))
        else:
            obs[name] = block.obs[name].to_numpy()
    counts = block.counts
    return anndata.AnnData(
        sparse.csr_matrix(
            (counts.data, counts.indices, counts.indptr.astype(np.int32)), shape=(counts.n_cells, counts.n_genes)
        ),
        obs=pd.DataFrame(obs, index=pd.Index(block.obs_names.to_pylist(), dtype=object)),
        var=pd.DataFrame(
            {
                "feature_id": np.array(block.genes.ids, object),
                "feature_name": np.array(block.genes.names, object),
                "feature_length": np.array(block.genes.lengths, np.int64),
            },
            index=pd.Index(block.genes.ids, dtype=object),
        ),
    )


def assert_reads_like_anndatas_own(block, folder):
    ours, theirs = folder / "ours.h5ad", folder / "theirs.h5ad"
    ours.write_bytes(written(block).data)
    with pd.option_context("mode.copy_on_write", True):
        anndata.io.write_h5ad(theirs, oracle(block))
    found, wanted = anndata.read_h5ad(ours), anndata.read_h5ad(theirs)
    pd.testing.assert_frame_equal(found.obs, wanted.obs, check_exact=True)
    pd.testing.assert_frame_equal(found.var, wanted.var, check_exact=True)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found.X, part), getattr(wanted.X, part), strict=True)
    assert found.X.shape == wanted.X.shape
    assert found.uns == {}
    assert not [*found.layers, *found.obsm, *found.varm, *found.obsp, *found.varp]
    with h5py.File(ours) as file, h5py.File(theirs) as other:
        assert set(other) - {"raw"} == set(file)
        for name in set(file):
            assert described(file[name]) == described(other[name])
        assert dict(file.attrs) == dict(other.attrs)


def described(node):
    return {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for name, value in node.attrs.items()
    }


@settings(max_examples=examples(12))
@given(blocks(least_columns=1))
def test_anndata_reads_it_like_a_file_of_its_own(tmp_path_factory, block):
    assert_reads_like_anndatas_own(block, tmp_path_factory.mktemp("oracle"))


def awkward_block(n_cells=300):
    """Return cells with every kind of column that an index may have, and names that are no identifiers."""
    rng = np.random.default_rng(0)
    genes = Genes(("ENSG1", "gène:Δ", "x" * 900, " "), ("", "é", "名前", "n" * 3_000), (0, 2**40, 1, 2))
    columns = {
        "many": dictionary([f"é{at % 200}" for at in range(n_cells)]),
        "missing": dictionary([None, "", "long " * 200] * (n_cells // 3)),
        "nothing": dictionary([None] * n_cells),
        "empty": dictionary([""] * n_cells),
        "flag": pa.array(rng.random(n_cells) < 0.5),
        "x y ü": pa.array(rng.random(n_cells).astype(np.float32)),
        "nan": pa.array(np.where(rng.random(n_cells) < 0.5, np.nan, 1.5)),
        "int8": pa.array(rng.integers(-128, 127, n_cells, np.int8)),
        "uint64": pa.array(rng.integers(2**60, 2**63, n_cells, np.uint64)),
        "nnz": pa.array(np.arange(n_cells)),
    }
    names = pa.array([*(f"a/b:ÄÖ-{at}" for at in range(n_cells - 1)), "n" * 70_000], pa.string())
    counts = seeded_block(n_cells, 4).counts
    return Block(counts, pa.table(columns), names, genes)


def test_awkward_names_and_columns(tmp_path):
    block = awkward_block()
    assert_reads_like_anndatas_own(block, tmp_path)
    for codec in CODECS:
        again = decode_chunk(written(block, codec).data, key="k")
        assert content_digest(again) == content_digest(block)
        assert again.genes == block.genes


def test_one_name_beyond_all_others_does_not_lengthen_them():
    names = pa.array([*(f"c{at}" for at in range(9_999)), "n" * 1_000_000])
    block = seeded_block(10_000, 1, density=0)
    block = replace(block, obs_names=names)
    encoded = written(block)
    assert len(encoded.data) < 2_000_000
    assert decode_chunk(encoded.data, key="k").obs_names.to_pylist() == names.to_pylist()


@pytest.mark.parametrize("decode", [decode_chunk, decode_names])
def test_names_that_are_all_the_same_long_one_are_not_all_read(tmp_path, decode):
    good = tmp_path / "good.h5ad"
    good.write_bytes(written(seeded_block(24, 3)).data)
    with h5py.File(good, "r+") as file:
        if file["obs"].attrs["_index"] != "_index":
            file["obs"].move(file["obs"].attrs["_index"], "_index")
            file["obs"].attrs["_index"] = "_index"
    TEXTS["texts-shared-names"](good, tmp_path / "bad.h5ad")
    data = (tmp_path / "bad.h5ad").read_bytes()
    with watched_memory() as peak, pytest.raises(CorruptError, match=r"texts longer than the chunk has room for"):
        decode(data, key="k.h5ad")
    assert peak.taken_bytes < 8 * 32 << 20  # a few times the text, of which there are 24


@pytest.mark.parametrize(
    ("n_values", "code"), [(126, np.int8), (127, np.int16), (32_766, np.int16), (32_767, np.int32)]
)
def test_codes_are_as_wide_as_pandas_has_them(n_values, code):
    texts = [f"v{at:06d}" for at in range(n_values)]
    block = seeded_block(n_values, 2, {"t": dictionary(texts, texts)} if n_values < 1_000 else None)
    if n_values >= 1_000:
        column = pa.DictionaryArray.from_arrays(pa.array(np.arange(n_values, dtype=np.int32)), pa.array(texts))
        block = replace(block, obs=pa.table({"t": column}))
    encoded = written(block)
    with h5py.File(io.BytesIO(encoded.data)) as file:
        assert file["obs/t/codes"].dtype == code == pd.Categorical(texts).codes.dtype
    assert decode_chunk(encoded.data, key="k").obs["t"].to_pylist() == texts


def test_no_cell_has_anything():
    for codec in CODECS:
        block = seeded_block(3, 5, density=0)
        encoded = written(block, codec)
        assert decode_chunk(encoded.data, key="k").counts.nnz == 0
        assert [part.offsets for part in encoded.offsets[:2]] == [(), ()]
        if codec in {"deflate", "none"}:
            assert anndata.io.read_elem(h5py.File(io.BytesIO(encoded.data))["X"]).nnz == 0


# Widening


def counted(values, n_genes=3):
    """Return one cell a value, which stands in the first column."""
    values = np.asarray(values)
    return Counts(np.arange(len(values) + 1), np.zeros(len(values), np.int32), values, n_genes)


def of(counts):
    """Return a block of `counts`."""
    block = seeded_block(counts.n_cells, counts.n_genes)
    return replace(block, counts=counts)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("place", [0, 70_000, 139_999])
@pytest.mark.sampled(3)
def test_a_count_that_does_not_fit_widens_all(codec, place):
    values = np.random.default_rng(0).integers(0, 65_536, 140_000).astype(np.int32)
    narrow = in_pieces(open_codec("h5ad", codec, 1), of(counted(values)), [50_000], "uint16")
    assert narrow.dtype == "uint16"
    assert narrow.content == content_digest(of(counted(values.astype(np.uint16))))
    values[place] = 65_536
    wide = in_pieces(open_codec("h5ad", codec, 1), of(counted(values)), [50_000, 100_000], "uint16")
    assert wide.dtype == "int32"
    assert wide.data == written(of(counted(values)), codec).data
    assert wide.content == content_digest(of(counted(values)))


@pytest.mark.parametrize(
    ("dtype", "pieces", "wanted"),
    [
        ("uint16", [np.array([65_535], np.int32)], "uint16"),
        ("uint16", [np.array([65_536], np.int32)], "int32"),
        ("uint16", [np.array([1], np.int32), np.array([0.5], np.float32)], "float32"),
        ("uint16", [np.array([2**31 - 1], np.int32), np.array([0.5], np.float32)], "float64"),
        ("float32", [np.array([1.5], np.float32), np.array([0.1], np.float64)], "float64"),
        ("float32", [np.array([2**24], np.int32)], "float32"),
        ("float32", [np.array([2**24 + 1], np.int32)], "float64"),
        ("int32", [np.array([7], np.int64)], "int32"),
        ("int32", [np.array([7], np.int32), np.array([0.25], np.float64)], "float64"),
        ("float32", [np.array([1], np.float32), np.array([], np.float64)], "float32"),
    ],
)
def test_types_widen_until_they_hold_every_value(dtype, pieces, wanted):
    encoder = open_codec("h5ad", "deflate", 1).begin(of(counted([1])).genes, dtype)
    for piece in pieces:
        encoder.add(counted(piece))
    values = np.concatenate([piece.astype(wanted) for piece in pieces])
    whole = of(counted(values))
    encoded = encoder.finish(whole.obs, whole.obs_names)
    assert encoded.dtype == wanted
    found = decode_chunk(encoded.data, key="k").counts.data
    assert found.dtype == wanted
    assert found.tolist() == [value for piece in pieces for value in piece.tolist()]
    assert encoded.content == content_digest(whole)


# What a caller does wrong, and what no file can hold


def test_cells_and_names_must_match():
    block = seeded_block(4, 3)
    codec = open_codec("h5ad", "deflate", 1)
    encoder = codec.begin(block.genes, "float32")
    with pytest.raises(ValueError, match="3 genes in a file of 2"):
        codec.begin(block.genes.take([0, 1]), "float32").add(block.counts)
    encoder.add(block.counts.rows(0, 3))
    with pytest.raises(ValueError, match="3 cells with 4 obs rows and 4 names"):
        encoder.finish(block.obs, block.obs_names)


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


# Size, and readers in processes of their own


def test_the_gene_table_is_small_and_made_once():
    drawn = draw_genes("homo_sapiens", 60_530, np.random.default_rng(0))
    genes = Genes(tuple(drawn.ids.tolist()), tuple(drawn.names.tolist()), tuple(drawn.lengths.tolist()))
    codec = open_codec("h5ad", "deflate", 1)
    counts = Counts(np.zeros(101, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 60_530)
    block = Block(counts, pa.table({"n": pa.array(np.arange(100))}), pa.array([str(at) for at in range(100)]), genes)
    first = encode_block(codec, block)
    assert len(first.data) < 600_000
    assert encode_block(codec, block).data == first.data
    assert decode_chunk(first.data, key="k").genes == genes
    fewer = replace(block, counts=replace(counts, n_genes=2), genes=genes.take([1, 0]))
    assert decode_chunk(encode_block(codec, fewer).data, key="k").genes == fewer.genes
    with h5py.File(io.BytesIO(first.data)) as file:
        assert file["var/_index"] == file["var/feature_id"], "one dataset under two names"


def test_indices_in_blocks_that_can_be_read_alone():
    """Inflate one stored block at its recorded offset, without HDF5."""
    block = big_block()
    encoded = written(block)
    for part, values in zip(encoded.offsets, (block.counts.data, block.counts.indices), strict=False):
        (length,) = part.chunk_shape
        assert len(part.offsets) == -(-len(values) // length) > 1
        at, size = part.offsets[1], part.sizes[1]
        planes = np.frombuffer(zlib.decompress(encoded.data[at : at + size]), np.uint8).reshape(4, length)
        np.testing.assert_array_equal(planes.T.copy().view(values.dtype).reshape(-1), values[length : 2 * length])


PLAIN = """
import sys, h5py
with h5py.File(sys.argv[1]) as file:
    print(int(file["X/data"][:].sum()), int(file["X/indices"][:].sum()), int(file["X/indptr"][-1]))
assert "hdf5plugin" not in sys.modules
"""


@pytest.mark.parametrize("codec", CODECS)
def test_a_process_that_knows_h5py_alone(codec, tmp_path):
    block = big_block()
    path = tmp_path / "chunk.h5ad"
    path.write_bytes(written(block, codec).data)
    done = subprocess.run([sys.executable, "-c", PLAIN, str(path)], capture_output=True, text=True, check=False)
    if codec in {"deflate", "none"}:
        sums = int(block.counts.data.sum()), int(block.counts.indices.astype(int).sum()), block.counts.nnz
        assert done.stdout.split() == [str(value) for value in sums], done.stderr
    else:
        assert "plugin" in done.stderr
        plugged = subprocess.run(
            [sys.executable, "-c", f"import hdf5plugin\n{PLAIN.rsplit('assert', 1)[0]}", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert plugged.returncode == 0, plugged.stderr


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_decoding_finds_the_plugin_by_itself(codec, tmp_path):
    path = tmp_path / "chunk.h5ad"
    path.write_bytes(written(big_block(), codec).data)
    script = (
        "import sys; from pathlib import Path; from ingest.encode.decode import decode_chunk\n"
        "assert 'hdf5plugin' not in sys.modules\n"
        "print(decode_chunk(Path(sys.argv[1]).read_bytes(), key='k').counts.nnz)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(big_block().counts.nnz), done.stderr


def test_deflate_is_written_without_the_plugin():
    script = (
        "import sys; from ingest.encode.base import encode_block; from ingest.encode.open import open_codec\n"
        "from ingest.testing.blocks import seeded_block\n"
        "encode_block(open_codec('h5ad', 'deflate', 1), seeded_block(3, 4)); assert 'hdf5plugin' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
