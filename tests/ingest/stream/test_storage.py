"""Which file is meant, and how its X lies."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import ingest.stream
from ingest.errors import ConfigError, HostileFileError, NoFileError
from ingest.stream import (
    AnnData,
    convert_to_csc,
    drop_file_cache,
    get_matrix_storage_format,
    is_dense_storage,
    iter_matrix_chunks,
    normalize_total_log1p,
    read_backed,
    resolve_data_path,
    sort_by_perturbation,
)
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_h5ad_variant(tmp_path_factory.mktemp("storage") / "a b#.h5ad", sample_counts(12, 9))


def test_every_way_to_name_a_file(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    backed, theirs = read_backed(path), anndata.read_h5ad(path, backed="r")
    named = [path, str(path), AnnData(path), backed, theirs, path.as_uri(), SimpleNamespace(path=path)]
    assert {resolve_data_path(data) for data in named} == {path}
    assert resolve_data_path(path.name) == Path(path.name)
    for cells in (backed, theirs):
        cells.file.close()


def test_what_names_none(path):
    with pytest.raises(TypeError, match=r"in memory and names no file; write it"):
        resolve_data_path(anndata.read_h5ad(path))
    for data in (None, 7, b"/x", "", object(), ["a.h5ad"], io.BytesIO()):
        with pytest.raises(TypeError):
            resolve_data_path(data)


def test_a_view_of_a_backed_anndata_is_not_taken_for_its_file(path, tmp_path):
    backed = anndata.read_h5ad(path, backed="r")
    output = tmp_path / "out.h5ad"
    for view in (backed[:5], backed[:, :4]):
        for call in (
            resolve_data_path,
            AnnData,
            iter_matrix_chunks,
            get_matrix_storage_format,
            lambda data: convert_to_csc(data, output_path=output),
            lambda data: normalize_total_log1p(data, output),
            lambda data: sort_by_perturbation(data, "condition", output_path=output),
        ):
            with pytest.raises(TypeError, match=r"a view, \d+ cells x \d+ genes, of .*write_filtered_subset"):
                call(view)
    (_, block), *_ = iter_matrix_chunks(backed[:5].to_memory(), chunk_size=9)
    assert block.shape == (5, 9)
    assert not output.exists()
    backed.file.close()


def test_files_that_are_not_there(tmp_path):
    missing = tmp_path / "missing.h5ad"
    assert resolve_data_path(missing, require_exists=False) == missing
    functions = [resolve_data_path, is_dense_storage, get_matrix_storage_format, AnnData, read_backed]
    for function in functions:
        with pytest.raises(FileNotFoundError, match=r"missing\.h5ad: there is no such file") as caught:
            function(missing)
        assert isinstance(pickle.loads(pickle.dumps(caught.value)), NoFileError)  # noqa: S301 # our own
    with pytest.raises(FileNotFoundError):
        resolve_data_path(tmp_path)


def test_remote_files_are_no_paths():
    for url in ("s3://bucket/a.h5ad", "https://example.org/a.h5ad"):
        with pytest.raises(ConfigError, match="a remote file") as caught:
            resolve_data_path(url)
        assert caught.value.kind == "remote-file"


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_formats(tmp_path, layout, legacy):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(12, 9), layout=layout, legacy=legacy)
    assert get_matrix_storage_format(path) == layout
    assert is_dense_storage(AnnData(path)) == (layout == "dense")


def test_no_x(tmp_path):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["g"])).write_h5ad(path)
    assert get_matrix_storage_format(path) == "dense"
    assert not is_dense_storage(path)


def test_an_x_that_is_no_matrix(path, tmp_path):
    copy = tmp_path / "a.h5ad"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        file["X"].attrs["encoding-type"] = "pickle"
    for function in (is_dense_storage, get_matrix_storage_format):
        with pytest.raises(HostileFileError, match=r"a\.h5ad: X: is no matrix \(encoding 'pickle'\)"):
            function(copy)


def test_only_headers_are_read(path, tmp_path):
    copy = tmp_path / "a.h5ad"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        for name in ("data", "indices", "indptr"):
            length = len(file["X"][name])
            del file["X"][name]
            empty = file["X"].create_dataset(name, (length,), np.int32, chunks=(length,), compression="gzip")
            empty.id.write_direct_chunk((0,), b"no deflate stream")
    assert get_matrix_storage_format(copy) == "csr"


def test_dropping_the_cache(path, tmp_path, monkeypatch):
    told = []
    advise = os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: (told.append(arguments[1:]), advise(*arguments)))
    before = path.read_bytes()
    drop_file_cache(path)
    assert told == [(0, 0, os.POSIX_FADV_DONTNEED)]
    assert path.read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "missing", tmp_path, tmp_path / "pipe", "\0"):
        drop_file_cache(other)  # nothing happens, at once
    monkeypatch.delattr(os, "posix_fadvise")
    drop_file_cache(path)


def test_importing_the_package_imports_little():
    script = (
        "import sys, ingest.stream as stream; assert 'AnnData' in dir(stream); "
        "print([name for name in ('anndata', 'pandas', 'h5py', 'numpy', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_that_are_none_of_its():
    with pytest.raises(AttributeError, match="has no attribute 'convert_to_coo'"):
        _ = ingest.stream.convert_to_coo
    assert sorted(ingest.stream.__all__) == sorted(ingest.stream._HOMES)
