"""What iterating over X reads, holds and leaves on disks: no more than it has to, and where one would expect it."""

from __future__ import annotations

import tempfile

import anndata
import h5py
import numpy as np
import pytest

from ingest.errors import ConfigError
from ingest.fetch import h5ad_stored
from ingest.fetch.h5ad_remote import remote_filesystem
from ingest.fetch.h5ad_tiles import StoredTiles
from ingest.stream import AnnData, iter_matrix_chunks, whole
from ingest.stream.matrix import dealt
from ingest.stream.matrix import work as work_module
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

COUNTS = sample_counts(60, 40, seed=4)


@pytest.fixture
def scratch(monkeypatch):
    """Folders in which scratch files were made; blocks are so small that all goes through one."""
    found = []
    real = tempfile.TemporaryFile

    def recorded(*arguments, **named):
        found.append(named["dir"])
        return real(*arguments, **named)

    monkeypatch.setattr(work_module, "BLOCK_BYTES", 300)
    monkeypatch.setattr(work_module, "_LEAST_BLOCK_BYTES", 300)
    monkeypatch.setattr(dealt.tempfile, "TemporaryFile", recorded)
    return found


def columns(path, **options):
    """Return X, of the slices of columns put side by side."""
    blocks = [block for _, block in iter_matrix_chunks(path, axis=1, **options)]
    assert {block.shape[1] for block in blocks[:-1]} <= {options["chunk_size"]}
    return np.hstack(blocks)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_handle_is_read_as_its_file_and_nothing_else_is_opened(tmp_path, axis, monkeypatch):
    path = write_h5ad_variant(tmp_path / "a.h5ad", COUNTS)

    def refuse(*_):
        raise AssertionError("the whole file was asked for")

    monkeypatch.setattr(whole, "backed_by", refuse)
    handle = AnnData(path)
    found = [block for _, block in iter_matrix_chunks(handle, axis=axis, chunk_size=7)]
    np.testing.assert_array_equal(np.concatenate(found, axis), COUNTS.toarray())
    with h5py.File(path, "r+"):  # nobody holds it
        pass


def test_a_remote_handle_too(tmp_path, s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.create_bucket("iterate")
    url = "s3://iterate/a.h5ad"
    path = write_h5ad_variant(tmp_path / "a.h5ad", COUNTS)
    remote_filesystem(url).pipe_file(url, path.read_bytes())
    monkeypatch.setattr(whole, "backed_by", None)
    found = [block for _, block in iter_matrix_chunks(AnnData(url), chunk_size=7)]
    np.testing.assert_array_equal(np.concatenate(found), COUNTS.toarray())


def test_scratch_is_beside_the_file_where_that_may_be_written(tmp_path, scratch, monkeypatch):
    path = write_h5ad_variant(tmp_path / "a.h5ad", COUNTS)
    np.testing.assert_array_equal(columns(path, chunk_size=7), COUNTS.toarray())
    assert set(scratch) == {tmp_path}
    n_before = len(scratch)
    monkeypatch.setattr("os.access", lambda *_: False)
    np.testing.assert_array_equal(columns(path, chunk_size=7), COUNTS.toarray())
    assert {str(folder) for folder in scratch[n_before:]} == {tempfile.gettempdir()}


def test_scratch_is_where_it_is_asked_for(tmp_path, scratch):
    path, asked = write_h5ad_variant(tmp_path / "a.h5ad", COUNTS), tmp_path / "asked"
    asked.mkdir()
    np.testing.assert_array_equal(columns(path, chunk_size=7, scratch_dir=str(asked)), COUNTS.toarray())
    assert set(scratch) == {asked}
    assert list(asked.iterdir()) == []
    with pytest.raises(ConfigError, match="no such folder"):
        columns(path, chunk_size=7, scratch_dir=tmp_path / "none")


@pytest.mark.parametrize("chunks", [(60, 1), (7, 3), (1, 7), (60, 5), (13, 7)])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_columns_of_a_dense_matrix_are_read_as_they_lie_each_block_once(
    tmp_path, chunks, compression, scratch, monkeypatch
):
    path = dense_file(tmp_path / "a.h5ad", chunks, compression)
    read, real = [], StoredTiles._block

    def counted(self, rows, across):
        read.append((rows.start, across.start))
        return real(self, rows, across)

    monkeypatch.setattr(h5ad_stored, "_LEAST_BLOCK_BYTES", 1)  # smaller ones are left to HDF5
    monkeypatch.setattr(StoredTiles, "_block", counted)
    np.testing.assert_array_equal(columns(path, chunk_size=7), COUNTS.toarray())
    assert scratch == []
    assert len(set(read)) == len(read) == -(-60 // chunks[0]) * -(-40 // chunks[1])


@pytest.mark.parametrize("chunks", [None, (60, 8), (1, 40), (5, 40)])
def test_columns_across_wider_blocks_go_through_scratch(tmp_path, chunks, scratch):
    path = dense_file(tmp_path / "a.h5ad", chunks, None)
    np.testing.assert_array_equal(columns(path, chunk_size=7), COUNTS.toarray())
    assert set(scratch) == {tmp_path}
    scratch.clear()
    np.testing.assert_array_equal(columns(path, chunk_size=40), COUNTS.toarray())
    assert scratch == []  # all of them at once need none


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1)])
def test_empty_dense_matrices(tmp_path, shape):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(np.ones(shape, np.float32)).write_h5ad(path)
    found = list(iter_matrix_chunks(path, axis=1, chunk_size=2))
    assert sum(block.shape[1] for _, block in found) == shape[1]
    assert all(block.shape[0] == shape[0] for _, block in found)


def dense_file(path, chunks, compression):
    write_h5ad_variant(path, COUNTS, layout="dense")
    with h5py.File(path, "r+") as file:
        attributes = dict(file["X"].attrs)
        del file["X"]
        file.create_dataset("X", data=COUNTS.toarray(), chunks=chunks, compression=compression)
        file["X"].attrs.update(attributes)
    return path
