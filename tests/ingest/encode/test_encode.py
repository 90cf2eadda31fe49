from __future__ import annotations

import io
import zlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.digest import content_digest
from ingest.encode.base import encode_block
from ingest.encode.decode import decode_chunk
from ingest.encode.open import open_codec
from ingest.errors import ConfigError, CorruptError
from ingest.testing.blocks import blocks, dictionary, seeded_block
from ingest.testing.examples import examples

CODECS = [("deflate", 1), ("deflate", 6), ("none", 0)]


def dense(counts):
    matrix = np.zeros((counts.n_cells, counts.n_genes), counts.data.dtype)
    for row in range(counts.n_cells):
        low, high = counts.indptr[row], counts.indptr[row + 1]
        matrix[row, counts.indices[low:high]] = counts.data[low:high]
    return matrix


@settings(max_examples=examples(16))
@given(blocks(), st.sampled_from(CODECS))
def test_decode_of_encode_is_the_block(block, codec):
    encoded = encode_block(open_codec("h5ad", *codec), block)
    again = decode_chunk(encoded.data, key="k")
    assert content_digest(again) == content_digest(block)
    assert again.counts.data.dtype == block.counts.data.dtype
    assert again.genes == block.genes
    assert again.obs.column_names == block.obs.column_names
    assert encode_block(open_codec("h5ad", *codec), block).data == encoded.data, "two encodes of one block differ"


@settings(max_examples=examples(10))
@given(blocks(least_columns=1))
def test_plain_anndata_reads_the_same(tmp_path_factory, block):
    path = tmp_path_factory.mktemp("encode") / "c.h5ad"
    path.write_bytes(encode_block(open_codec("h5ad", "deflate", 1), block).data)
    cells = anndata.read_h5ad(path)
    assert cells.shape == (block.counts.n_cells, block.counts.n_genes)
    assert cells.X.dtype == block.counts.data.dtype
    assert (cells.X.toarray() == dense(block.counts)).all()
    assert cells.obs_names.tolist() == block.obs_names.to_pylist()
    assert cells.var_names.tolist() == list(block.genes.ids)
    assert cells.var["feature_id"].tolist() == list(block.genes.ids)
    assert cells.var["feature_name"].tolist() == list(block.genes.names)
    assert cells.var["feature_length"].tolist() == list(block.genes.lengths)
    assert cells.obs.columns.tolist() == block.obs.column_names
    for name in block.obs.column_names:
        wanted, found = block.obs[name].to_pylist(), cells.obs[name]
        if isinstance(found.dtype, pd.CategoricalDtype):
            assert found.astype(object).where(found.notna(), None).tolist() == wanted
            assert found.cat.categories.tolist() == sorted({value for value in wanted if value is not None})
        else:
            np.testing.assert_array_equal(found.to_numpy(), np.array(wanted, found.dtype))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("n_cells", "n_genes", "density"), [(1, 1, 0.0), (5, 3, 0.0), (3, 4, 1.0), (700, 300, 0.3)], ids=str
)
def test_offsets_locate_the_stored_chunks(codec, n_cells, n_genes, density):
    """Inflate and unshuffle by hand, without HDF5."""
    block = seeded_block(n_cells, n_genes, density=density)
    encoded = encode_block(open_codec("h5ad", *codec), block)
    wanted = {
        "X/data": block.counts.data,
        "X/indices": block.counts.indices,
        "X/indptr": block.counts.indptr.astype(np.int32),
    }
    assert [part.dataset for part in encoded.offsets] == list(wanted)
    for part in encoded.offsets:
        values = wanted[part.dataset]
        pieces = []
        for offset, size in zip(part.offsets, part.sizes, strict=True):
            raw = bytes(encoded.data[offset : offset + size])
            if codec[0] == "deflate":
                shuffled = np.frombuffer(zlib.decompress(raw), np.uint8)
                raw = shuffled.reshape(values.dtype.itemsize, -1).T.tobytes()
            pieces.append(np.frombuffer(raw, values.dtype))
        found = np.concatenate([np.empty(0, values.dtype), *pieces])[: len(values)]
        assert (found == values).all()
        assert len(found) == len(values)
        assert len(part.offsets) == -(-len(values) // part.chunk_shape[0])


def test_categoricals_of_nothing_and_all_missing():
    block = seeded_block(3, 2, {"t": dictionary([None, None, None]), "u": dictionary(["", None, ""])})
    again = decode_chunk(encode_block(open_codec("h5ad", "deflate", 1), block).data, key="k")
    assert again.obs["t"].to_pylist() == [None] * 3
    assert again.obs["u"].to_pylist() == ["", None, ""]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("zarr", "deflate", 1), "bad-format"),
        (("h5ad", "blosc", 1), "bad-codec"),
        (("h5ad", "deflate", 10), "bad-level"),
    ],
)
def test_what_no_codec_can_do(arguments, kind):
    with pytest.raises(ConfigError) as caught:
        open_codec(*arguments)
    assert caught.value.kind == kind


def test_damage_is_corruption_or_another_digest():
    """Flips in the superblock and in the counts, and cuts: a typed error, or a digest that tells.

    Not everywhere: HDF5 itself may loop for ever over a damaged heap, which a unit's deadline ends.
    """
    block = seeded_block(6, 5, {"t": dictionary(["a", "b", None, "a", "b", "a"])})
    encoded = encode_block(open_codec("h5ad", "deflate", 1), block)
    whole, digest = bytes(encoded.data), content_digest(block)
    stored = [(o, n) for part in encoded.offsets for o, n in zip(part.offsets, part.sizes, strict=True)]
    assert len(stored) == 3

    def flipped(at):
        try:
            damaged = whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
            return content_digest(decode_chunk(damaged, key="k"))
        except CorruptError:
            return None

    for at in range(96):
        flipped(at)
    # The first byte of a zlib stream and the last four, its checksum, are watched as well.
    assert all(flipped(at) != digest for offset, size in stored for at in range(offset, offset + size))
    for cut in range(0, len(whole), 97):
        with pytest.raises(CorruptError):
            decode_chunk(whole[:cut], key="k")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda file: file.pop("X"),
        lambda file: file["X"].attrs.update({"encoding-type": "csc_matrix"}),
        lambda file: file["X"].attrs.update({"shape": [9, 5]}),
        lambda file: file["obs"].pop("_index"),
        lambda file: file["obs"].attrs.pop("column-order"),
        lambda file: file["obs"].attrs.update({"column-order": ["nothing"]}),
        lambda file: (file.pop("X"), file.create_dataset("X", data=np.zeros((6, 5)))),
        lambda file: (file["X"].pop("data"), file["X"].create_group("data")),
        lambda file: (file["X"].pop("data"), file["X"].create_dataset("data", data=h5py.Empty("f4"))),
        lambda file: (file.pop("var"), file.create_dataset("var", data=1)),
        lambda file: (file["obs"]["t"].pop("codes"), file["obs"]["t"].create_dataset("codes", data=[99] * 6)),
        lambda file: (file["obs"]["t"].pop("codes"), file["obs"]["t"].create_dataset("codes", data=["x"] * 6)),
        lambda file: (file["X"].pop("indptr"), file["X"].create_dataset("indptr", data=1)),
        lambda file: (file["X"].pop("indptr"), file["X"].create_dataset("indptr", data=["a", "b"])),
    ],
)
def test_contradictions_are_corruption(break_it):
    block = seeded_block(6, 5, {"t": dictionary(["a", "b", None, "a", "b", "a"])})
    buffer = io.BytesIO(encode_block(open_codec("h5ad", "deflate", 1), block).data)
    with h5py.File(buffer, "r+") as file:
        break_it(file)
    with pytest.raises(CorruptError) as caught:
        decode_chunk(buffer.getvalue(), key="k")
    assert caught.value.kind == "undecodable-chunk"


@pytest.mark.parametrize("detour", ["external link", "soft link", "external storage", "virtual dataset"])
def test_a_chunk_that_leads_into_another_file_is_not_followed(detour, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = np.ones(3, np.float32)
    path = tmp_path / "chunk.h5ad"
    path.write_bytes(encode_block(open_codec("h5ad", "deflate", 1), seeded_block(5, 4)).data)
    with h5py.File(path, "r+") as file:
        n = len(file["X/data"])
        del file["X/data"]
        if detour == "external link":
            file["X/data"] = h5py.ExternalLink(str(secret), "data")
        elif detour == "soft link":
            file["X/data"] = h5py.SoftLink("/X/indices")
        elif detour == "external storage":
            file.create_dataset("X/data", (n,), np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((n,), np.float32)
            layout[:] = h5py.VirtualSource(str(secret), "data", (n,))
            file.create_virtual_dataset("X/data", layout)
    with pytest.raises(CorruptError, match="X/data"):
        decode_chunk(path.read_bytes(), key="chunks/chunk_000000.h5ad")


@pytest.mark.parametrize("path", ["X/data", "X/indptr", "var/feature_name", "obs/t/codes"])
def test_what_is_declared_and_not_stored_is_not_allocated(path):
    """A file of some kilobytes can declare petabytes."""
    block = seeded_block(6, 5, {"t": dictionary(["a", "b", None, "a", "b", "a"])})
    buffer = io.BytesIO(encode_block(open_codec("h5ad", "deflate", 1), block).data)
    with h5py.File(buffer, "r+") as file:
        del file[path]
        file.create_dataset(path, (1 << 33,), "i4", chunks=(1 << 10,))
    with pytest.raises(CorruptError, match="declare"):
        decode_chunk(buffer.getvalue(), key="chunks/chunk_000000.h5ad")
