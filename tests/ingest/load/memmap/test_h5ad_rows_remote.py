"""The same arrays from a bucket, fetched whole or by ranges."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import NoFileError, SourceChangedError
from ingest.fetch.h5ad_remote import remote_filesystem
from ingest.load.memmap.archive import ArchiveSpec, ArrayFiles
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.convert.h5ad import H5adRows
from ingest.testing.h5ad_entries import Archived
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
MATRIX = sample_counts(300, 200)
SPEC = ArchiveSpec.smallest(*MATRIX.shape[:1], MATRIX.nnz, MATRIX.shape[1], "uint16")


def archive(where, folder, memory_bytes):
    rows = H5adRows(where, use_X_not_raw=True, threads=2, memory_bytes=memory_bytes)
    folder.mkdir()
    with ArrayFiles.create(folder, SPEC) as into:
        for first, last in ((0, 250), (250, 300)):
            at = int(rows.entries_before(np.array([first]))[0])
            rows.write(Place(first, last - first, first, at), into)
    features = rows.obs_features().to_pydict()
    rows.close()
    return Archived.read(folder), features


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_buckets(tmp_path, gcs_server, monkeypatch, layout):
    for name, value in gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    path = write_h5ad_variant(tmp_path / "a.h5ad", MATRIX, layout=layout, compression="gzip")
    url = f"{gcs_server.create_bucket('memmap-h5ad')}/{layout}.h5ad"
    files = remote_filesystem(url)
    files.pipe_file(url, path.read_bytes())
    want = archive(path, tmp_path / "local", 1 << 30)
    for number, memory_bytes in enumerate((1 << 30, 100_000)):
        assert archive(url, tmp_path / f"remote-{number}", memory_bytes) == want
    rows = H5adRows(url, use_X_not_raw=True)
    assert (rows.label, rows.size_bytes) == (url, path.stat().st_size)
    files.pipe_file(url, path.read_bytes() + b"x")
    with ArrayFiles.create(tmp_path, SPEC) as into, pytest.raises(SourceChangedError):
        rows.write(Place(0, 300, 0, 0), into)
    rows.close()
    files.rm_file(url)
    with pytest.raises(NoFileError, match=f"Error: could not find h5ad path {url}"):
        H5adRows(url)
