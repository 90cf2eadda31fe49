from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.source import Source, address_of

_NAMES = st.text(
    st.sampled_from(list("aB1 #%23+&=?é漢~-_.:@'\""))
    | st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))
_VERSIONS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(_NAMES, _VERSIONS, st.sampled_from(["s3://bucket/", "gs://bucket/a b/"]))
@example("a%23b", "", "s3://bucket/")
@example("a%2523b#", "1", "s3://bucket/")
@example("a#version=3", "", "gs://bucket/a b/")
def test_a_file_in_a_bucket_comes_back(name, version, prefix):
    source = Source("h5ad", prefix + name, version)
    assert Source.parse(str(source)) == source


@given(_NAMES, _VERSIONS)
def test_a_local_file_comes_back_with_its_path(name, version):
    source = Source("h5ad", Path("/data", name).as_uri(), version)
    again = Source.parse(str(source))
    assert again == source
    assert again.path == Path("/data", name)
    assert again.label
    assert not set(again.label) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


@given(_NAMES.filter(lambda name: "#version=" not in name))
def test_a_path_that_a_person_writes_is_that_path(name):
    assert Source.parse(f"/data/{name}").path == Path("/data", name)


@given(_NAMES, _VERSIONS, st.sampled_from(["s3://bucket/", "file:///data/"]))
def test_a_copy_of_the_census_comes_back(name, build, prefix):
    address = Path("/data", name).as_uri() if prefix.startswith("file") else prefix + name
    source = Source("soma", address, build, "homo_sapiens")
    assert Source.parse(str(source)) == source
    assert source.path == (Path("/data", name) if prefix.startswith("file") else None)


def test_the_census_comes_back():
    source = Source("census", "2025-11-08", "2025-11-08", "mus_musculus")
    assert str(source) == "census://2025-11-08/mus_musculus"
    assert Source.parse(str(source)) == source
    assert source.label == "mus_musculus"


def test_different_sources_have_different_strings():
    tricky = ["a#b", "a%23b", "a%2523b", "a%252523b", "a%25#b", "a#version=1", "a"]
    sources = [Source("h5ad", f"s3://b/{name}", version) for name in tricky for version in ("", "1", "version=1")]
    assert len({str(source) for source in sources}) == len(sources)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:pw@host/a.h5ad",
        "https://host/a.h5ad?X-Amz-Signature=abc&X-Amz-Credential=x",
        "soma+s3://key:secret@bucket/x#organism=homo_sapiens",
        "s3://b/a.h5ad?sig=abc#version=1",
    ],
)
def test_urls_with_secrets_are_refused_without_repeating_them(text):
    with pytest.raises(ConfigError) as caught:
        Source.parse(text)
    assert caught.value.kind == "secret-url"
    assert not any(secret in str(caught.value) for secret in ("pw", "abc", "secret@"))


@pytest.mark.parametrize(
    "text", ["census://2025-11-08", "census:///homo_sapiens", "soma+s3://b/x", "https://host/a.h5ad#part"]
)
def test_what_is_no_source_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        Source.parse(text)
    assert caught.value.kind == "bad-source"


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert address_of("a b.h5ad") == (tmp_path / "a b.h5ad").as_uri()
    assert address_of("../x").endswith("/x")
    assert ".." not in address_of("../x")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert address_of("~/x.h5ad") == (tmp_path / "x.h5ad").as_uri()
    assert address_of("s3://bucket/prefix/") == "s3://bucket/prefix"
