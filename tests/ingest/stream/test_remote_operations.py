"""Every operation that reads, of files on servers: what it gives and fetches, and what it says of what is wrong."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from ingest.cli.main import main
from ingest.errors import ConfigError, CredentialsError, NoFileError
from ingest.fetch.h5ad_remote import remote_filesystem
from ingest.stream import AnnData, convert_to_csc
from ingest.testing.h5ad_same import assert_same
from ingest.testing.stream_operations import ANNOTATIONS, EDIT, MAKE, READ, write_everything

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def s3(s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.create_bucket("stream-operations")


def put(path, url):
    remote_filesystem(url).pipe_file(url, path.read_bytes())
    return url


def same(found, expected):
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, pd.Series | pd.Index):
        assert list(map(str, found)) == list(map(str, expected))
    elif isinstance(expected, tuple | str | bool | int):
        assert found == expected
    else:
        assert_same(found, expected)


NOTES = {"sorting_metadata", "standardization_metadata"}
ASKING = {name: read for name, read in READ.items() if name != "AnnData repr"}
"""A handle shows what is wrong with its file instead of raising it."""


@pytest.mark.parametrize("layout", ["csr", "dense"])
@pytest.mark.sampled(3)
def test_whatever_reads(layout, s3, tmp_path):
    path = write_everything(tmp_path / "a.h5ad", layout)
    url = put(path, f"{s3}/{layout}/a.h5ad")
    for name, read in READ.items():
        expected = read(path)
        if name == "AnnData repr":
            assert read(url) == expected.replace(str(path), url)
        else:
            same(read(url), expected)
        if name in ANNOTATIONS and layout == "csr":
            with AnnData(url) as handle:
                same(read(handle), expected)


@pytest.mark.parametrize("layout", ["csr", "dense"])
@pytest.mark.sampled(3)
def test_whatever_makes_a_file(layout, s3, tmp_path):
    path = write_everything(tmp_path / "a.h5ad", layout)
    url = put(path, f"{s3}/{layout}/a.h5ad")
    for name, make in MAKE.items():
        (here := tmp_path / name / "here").mkdir(parents=True)
        (there := tmp_path / name / "there").mkdir()
        if name == "convert_to_csr" and layout == "csr":
            assert AnnData(url).filename == str(convert_to_csr_of(url))
        else:
            made, expected = (anndata.read_h5ad(make(data, folder)) for data, folder in ((url, there), (path, here)))
            for entry in NOTES & set(made.uns):
                noted = [cells.uns.pop(entry)["original_path"] for cells in (made, expected)]
                assert noted == [url, str(path)]
                first = make(url, there).stat()
                assert make(url, there).stat() == first  # of the same object: taken as it is
            assert_same(made, expected)


def convert_to_csr_of(url):
    from ingest.stream import convert_to_csr

    return convert_to_csr(url, verbose=False)


def test_annotations_cost_no_matrix(tmp_path, s3, monkeypatch):
    """Of a file of 16 MB of matrix: ranges are fetched, not the file."""
    path, noise = tmp_path / "a.h5ad", np.random.default_rng(0)
    write_everything(path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("zzz", data=noise.integers(0, 255, 16 << 20, dtype=np.uint8))
    url = put(path, f"{s3}/wide/a.h5ad")
    from ingest.fetch import h5ad_remote

    fetched, fetch = [], h5ad_remote.RemoteBytes._fetch
    monkeypatch.setattr(
        h5ad_remote.RemoteBytes,
        "_fetch",
        lambda self, start, stop: fetched.append(stop - start) or fetch(self, start, stop),
    )
    for name, read in READ.items():
        fetched.clear()
        read(url)
        assert sum(fetched) < path.stat().st_size / 3, name


def test_what_is_not_there(s3, tmp_path):
    """A missing object, a missing bucket, a typo in the scheme: said by every operation in the same words."""
    missing, scheme = f"{s3}/none.h5ad", "s4://bucket/a.h5ad"
    calls = {**ASKING, **{name: lambda data, make=make: make(data, tmp_path) for name, make in MAKE.items()}}
    for name, call in calls.items():
        with pytest.raises(FileNotFoundError, match=f"{missing}: there is no such file") as caught:
            call(missing)
        assert isinstance(caught.value, NoFileError), name
        with pytest.raises(ConfigError, match="no reader for s4://") as caught:
            call(scheme)
        assert "s3://" in caught.value.hint, name
    for name, call in EDIT.items():
        with pytest.raises(ConfigError, match="a remote file") as caught:
            call(missing)
        assert caught.value.kind == "remote-file", name
    with pytest.raises(NoFileError):
        AnnData("s3://no-such-bucket-here/a.h5ad").obs.load()
    assert "there is no such file" in repr(AnnData(missing))
    assert list(tmp_path.iterdir()) == []


def test_wrong_credentials(s3, tmp_path, monkeypatch):
    class Refusing:
        def __getattr__(self, name):
            def refuse(*_, **__):
                raise PermissionError("Forbidden")

            return refuse

    monkeypatch.setattr("ingest.fetch.h5ad_remote.remote_filesystem", lambda _: Refusing())
    for name, call in {**ASKING, "convert_to_csc": lambda url: convert_to_csc(url, output_dir=tmp_path)}.items():
        with pytest.raises(CredentialsError, match="no permission to read") as caught:
            call(f"{s3}/a.h5ad")
        assert "credentials" in caught.value.hint, name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("csc", "{}/none.h5ad", "-o", "out.h5ad"), 1, "none.h5ad: there is no such file"),
        (("csc", "{}/a.h5ad"), 2, "a.h5ad is remote: say where to write"),
        (("labels", "{}/a.h5ad", "--column", "cell_type", "--in-place"), 2, "a remote file"),
        (("genes", "{}/a.h5ad"), 0, ""),
        (("normalize", "{}/a.h5ad", "-o", "out.h5ad"), 0, ""),
        (("sort", "{}/a.h5ad", "--column", "cell_type", "--control", "B cell", "-o", "out.h5ad"), 0, ""),
        (("sort", "{}/a.h5ad", "--column", "cell_type", "--control", "B cell"), 2, "is remote: say where to write"),
        (("csc", "s5://x/a.h5ad", "-o", "out.h5ad"), 2, "no reader for s5://"),
    ],
)
def test_by_the_command_line(arguments, code, said, s3, tmp_path, monkeypatch, capsys):
    put(write_everything(tmp_path / "local.h5ad"), f"{s3}/a.h5ad")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["convert", *(word.format(s3) for word in arguments)])
    assert ended.value.code == code
    assert said in capsys.readouterr().err
    made = [path.name for path in tmp_path.iterdir() if path.name != "local.h5ad"]
    assert made == (["out.h5ad"] if code == 0 and "-o" in arguments else [])
