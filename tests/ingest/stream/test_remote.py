"""The same from servers: http, an S3 and a GCS look-alike."""

from __future__ import annotations

import gc
import pickle
import re
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from ingest.errors import ConfigError, NoFileError
from ingest.fetch.h5ad_open import _open_files
from ingest.fetch.h5ad_remote import RemoteBytes, remote_filesystem
from ingest.stream import (
    AnnData,
    convert_to_csr,
    get_matrix_storage_format,
    is_dense_storage,
    load_obs,
    load_var,
    read_backed,
    read_h5ad_ondisk,
    resolve_data_path,
    write_obs,
    write_uns_dict_to_h5ad,
)
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.h5ad_same import assert_same
from ingest.testing.range_server import range_server

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def http():
    with range_server() as server:
        yield server


@pytest.fixture(params=["http", "s3", "gs"])
def upload(request, http, s3_server, gcs_server, monkeypatch):
    def put(path):
        if request.param == "http":
            return http.put(path.name, path.read_bytes(), "one")
        server = {"s3": s3_server, "gs": gcs_server}[request.param]
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        url = f"{server.create_bucket('stream-reading')}/{path.name}"
        remote_filesystem(url).pipe_file(url, path.read_bytes())
        return url

    return put


def write(folder, layout, where):
    path = write_h5ad_variant(folder / "a.h5ad", sample_counts(60, 40), layout=layout, where=where, compression="gzip")
    write_uns_dict_to_h5ad(path, "params", {"n": 3, "colors": np.array(["a", "b"], dtype=object)})
    return path


@pytest.mark.parametrize(("layout", "where"), [("csr", "raw"), ("csc", "X"), ("dense", "layer:counts")])
@pytest.mark.sampled(3)
def test_whatever_only_reads(tmp_path, upload, layout, where, capsys, monkeypatch):
    path = write(tmp_path, layout, where)
    url, cells = upload(path), anndata.read_h5ad(path)
    pd.testing.assert_frame_equal(load_obs(url), cells.obs)
    pd.testing.assert_frame_equal(load_var(url), cells.var)
    assert get_matrix_storage_format(url) == layout
    assert is_dense_storage(url) == (layout == "dense")
    with AnnData(url) as handle:
        assert (handle.path, handle.filename, str(handle)) == (url, url, url)
        assert handle.shape == cells.shape
        pd.testing.assert_series_equal(handle.obs["cell_type"], cells.obs["cell_type"])
        assert handle.uns["params"]["n"].load() == 3
        np.testing.assert_array_equal(_dense(handle.X[5:9]), _dense(cells.X[5:9]))
        assert handle.backed is handle.backed
        assert_same(handle.to_memory(), cells)
        again = pickle.loads(pickle.dumps(handle))  # noqa: S301 # our own
        assert again.obs.shape == cells.obs.shape
        again.close()
    matrix = read_backed(url).X
    gc.collect()
    assert url in {opened.source.address for opened in _open_files}  # which are closed before Python ends
    np.testing.assert_array_equal(_dense(matrix[:3]), _dense(cells.X[:3]))
    closed = _closings(monkeypatch)
    del matrix
    gc.collect()
    assert len(closed) == 1
    made = [convert_to_csr(data, output_path=tmp_path / "out.h5ad", verbose=False).to_memory() for data in (url, path)]
    assert_same(*made)
    read_h5ad_ondisk(url).close()
    assert f"X: 60 x 40, {layout} float32" in capsys.readouterr().out


def _closings(monkeypatch):
    closed, close = [], RemoteBytes.close
    monkeypatch.setattr(RemoteBytes, "close", lambda stream: (closed.append(stream), close(stream))[1])
    return closed


def _dense(values):
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)


def test_what_writes_refuses(tmp_path, upload):
    url = upload(write(tmp_path, "csr", "X"))
    for change in (
        lambda: write_obs(url, pd.DataFrame(index=range(60))),
        lambda: write_uns_dict_to_h5ad(AnnData(url), "k", {}),
        lambda: AnnData(url, mode="r+"),
        lambda: resolve_data_path(AnnData(url)),
    ):
        with pytest.raises(ConfigError, match="a remote file") as caught:
            change()
        assert "copy it" in caught.value.hint


def test_what_is_not_there(tmp_path, upload):
    url = upload(write(tmp_path, "csr", "X")).replace("a.h5ad", "b.h5ad")
    for read in (load_obs, read_backed, is_dense_storage, lambda url: AnnData(url).obs.load()):
        with pytest.raises(FileNotFoundError, match=re.escape(f"{url}: there is no such file")) as caught:
            read(url)
        assert isinstance(caught.value, NoFileError)


def test_tables_cost_no_matrix(tmp_path, http):
    path = tmp_path / "a.h5ad"
    noise = np.random.default_rng(0).random((2000, 2000)).astype(np.float32)
    anndata.AnnData(noise, obs=pd.DataFrame({"a": range(2000)}, index=map(str, range(2000)))).write_h5ad(path)
    http.put("a.h5ad", path.read_bytes(), "one")
    url = f"http://127.0.0.1:{http.server_port}/a.h5ad"
    assert load_obs(url)["a"].sum() == 1999 * 1000
    assert http.n_bytes < len(http.files["/a.h5ad"]) / 4


def test_a_process_that_ends_with_it_open(tmp_path, http):
    http.put("a.h5ad", write(tmp_path, "csr", "X").read_bytes(), "one")
    url = f"http://127.0.0.1:{http.server_port}/a.h5ad"
    script = (
        f"from ingest.stream import *; x = read_backed({url!r}); h = AnnData({url!r}); print(h.n_obs, x.X[:2].shape)"
    )
    script = script.replace("import *", "import AnnData, read_backed")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "60 (2, 40)\n"), done.stderr
