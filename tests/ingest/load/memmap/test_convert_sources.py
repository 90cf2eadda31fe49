"""What words stand for, here and in buckets."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from ingest.errors import ConfigError
from ingest.load.memmap.convert.api import create_archive
from ingest.load.memmap.convert.sources import find_sources, h5ads_below
from ingest.store.open import open_store
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.shelf import Shelf


@pytest.fixture
def files(tmp_path):
    for name in ("b.h5ad", "a/2.h5ad", "a/1.h5ad", "a.h5ad", "a/b/0.h5ad", "c/notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "in" / "folder.h5ad").mkdir()
    return tmp_path / "in"


def found(*words):
    return [(one.kind, one.address.rpartition("/in/")[2]) for one in find_sources(words)]


def test_folders_are_sorted_as_paths_are(files):
    """Component by component, as bionemo-scdl sorts them; what is no file is none."""
    wanted = ["a/1.h5ad", "a/2.h5ad", "a/b/0.h5ad", "a.h5ad", "b.h5ad"]
    assert [str(path.relative_to(files)) for path in h5ads_below(files)] == wanted
    assert found(files) == [("h5ad", name) for name in wanted]
    assert sorted(path for path in files.rglob("*.h5ad") if path.is_file()) == h5ads_below(files)


def test_words_keep_their_order(files, monkeypatch):
    monkeypatch.chdir(files)
    assert found("b.h5ad", "a*.h5ad", "a/b") == [("h5ad", name) for name in ("b.h5ad", "a.h5ad", "a/b/0.h5ad")]
    assert found(f"file://{files}/b.h5ad", "a/**/*.h5ad")[0] == ("h5ad", "b.h5ad")
    assert find_sources(["b.h5ad"])[0].label == "b.h5ad"


def test_what_is_called_a_pattern_and_is_a_file(files):
    (files / "odd[1].h5ad").write_text("")
    assert found(files / "odd[1].h5ad") == [("h5ad", "odd%5B1%5D.h5ad")]


@pytest.mark.parametrize(
    ("word", "kind", "address"),
    [
        ("s3://bucket/lung", "chunks", "s3://bucket/lung"),
        ("gs://bucket/lung/", "chunks", "gs://bucket/lung"),
        ("s3://bucket/lung.h5ad", "h5ad", "s3://bucket/lung.h5ad"),
        ("https://host/path?version=3", "h5ad", "https://host/path?version=3"),
    ],
)
def test_urls(word, kind, address):
    [one] = find_sources([word])
    assert (one.kind, one.address, one.label) == (kind, address, word)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([], "no-such-source"),
        (["nowhere"], "no-such-source"),
        (["c"], "no-such-source"),
        (["b.h5ad", "b.h5ad"], "source-twice"),
        (["a", "a/1.h5ad"], "source-twice"),
        (["s3://user:secret@bucket/x.h5ad"], "secret-url"),
    ],
)
def test_what_is_refused(files, monkeypatch, words, kind):
    monkeypatch.chdir(files)
    with pytest.raises(ConfigError) as caught:
        find_sources(words)
    assert caught.value.kind == kind
    assert "secret@" not in str(caught.value)


def test_a_dataset_and_files_of_a_bucket(s3_server, tmp_path, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket = s3_server.create_bucket("convert-sources")
    shelf = Shelf(tmp_path)
    made = shelf.made("float32-deflate")
    files = [write_h5ad_variant(tmp_path / f"{n}.h5ad", sample_counts(9, 5, seed=n), where="raw") for n in (1, 2)]
    store = open_store(bucket)
    for path in [*made.rglob("*"), *files]:
        if path.is_file():
            store.put_new(str(path.relative_to(tmp_path)), path.read_bytes())
    store.close()
    path = create_archive([f"{bucket}/*.h5ad", f"{bucket}/{made.name}"], tmp_path / "made", pool="serial")
    data = np.fromfile(path / "data.npy", "float32")
    wanted = [anndata.read_h5ad(file).raw.X.data for file in files]
    assert data.tolist() == np.concatenate([*wanted, shelf.plain("float32-deflate").matrix.data]).tolist()
    with pytest.raises(ConfigError, match="there is no such file"):
        find_sources([f"{bucket}/*.loom"])
