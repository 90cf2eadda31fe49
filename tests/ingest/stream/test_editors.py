"""Several who change one file at once, or between its reading and its writing: no change is lost without a word."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anndata
import h5py
import pandas as pd
import pytest

from ingest.cli import convert as cli_convert
from ingest.cli import main
from ingest.errors import SourceChangedError
from ingest.stream import (
    AnnData,
    files,
    load_obs,
    normalise_perturbation_labels,
    sort_by_perturbation,
    sorting,
    standardise_gene_names,
    standardize,
    standardize_dataset,
    write_obs,
    write_uns_dict_to_h5ad,
)
from ingest.stream.labels import gene_names, normalise
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.screens import write_screen

TIMEOUT_S = 30


@pytest.fixture
def path(tmp_path):
    return write_h5ad_variant(tmp_path / "cells.h5ad", sample_counts(30, 20))


def outcome(path, name):
    try:
        write_uns_dict_to_h5ad(path, name, {"k": 1})
    except SourceChangedError:
        return "changed"
    return "written"


def both(path):
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(outcome, [path, path], "ab", timeout=TIMEOUT_S))
    return dict(zip("ab", said, strict=True))


def test_of_two_editors_that_are_done_together_one_is_told(path, monkeypatch):
    sync, together = files._sync, threading.Barrier(2, timeout=TIMEOUT_S)

    def both_on_the_disk(what, flags):
        sync(what, flags)
        if what.name.endswith(files.PARTIAL):
            together.wait()

    monkeypatch.setattr(files, "_sync", both_on_the_disk)
    said = both(path)
    assert sorted(said.values()) == ["changed", "written"]
    assert {name for name in "ab" if name in anndata.read_h5ad(path).uns} == {
        name for name, word in said.items() if word == "written"
    }


def test_nobody_takes_the_name_between_an_editors_last_look_and_its_own_taking(path, monkeypatch):
    sync, version, together = files._sync, files._version, threading.Barrier(2, timeout=TIMEOUT_S)
    done = threading.local()

    def both_on_the_disk(what, flags):
        sync(what, flags)
        if what.name.endswith(files.PARTIAL):
            done.sync = True
            together.wait()

    def slow(what):
        found = version(what)
        if getattr(done, "sync", False):
            time.sleep(0.1)  # the other looks too, if it may
        return found

    monkeypatch.setattr(files, "_sync", both_on_the_disk)
    monkeypatch.setattr(files, "_version", slow)
    assert sorted(both(path).values()) == ["changed", "written"]


def test_a_change_while_the_copy_goes_to_the_disk_is_kept(path, monkeypatch):
    sync = files._sync

    def meanwhile(what, flags):
        sync(what, flags)
        if what.name.endswith(files.PARTIAL):
            with h5py.File(path, "r+") as file:
                file.attrs["theirs"] = 1

    monkeypatch.setattr(files, "_sync", meanwhile)
    assert outcome(path, "a") == "changed"
    with h5py.File(path) as file:
        assert file.attrs["theirs"] == 1


def test_a_file_removed_meanwhile_is_not_brought_back(path, monkeypatch):
    sync = files._sync

    def meanwhile(what, flags):
        sync(what, flags)
        path.unlink(missing_ok=True)

    monkeypatch.setattr(files, "_sync", meanwhile)
    assert outcome(path, "a") == "changed"
    assert list(path.parent.iterdir()) == []


def test_a_file_that_somebody_has_open_to_write_is_left_to_them(path):
    with h5py.File(path, "r+") as file:
        with pytest.raises(SourceChangedError, match="open for writing"):
            write_uns_dict_to_h5ad(path, "a", {"k": 1})
        file["obs"].attrs["theirs"] = 1
    with h5py.File(path) as file:
        assert file["obs"].attrs["theirs"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_who_reads_is_no_hindrance_and_not_hindered(path):
    with AnnData(path) as cells, h5py.File(path) as file:
        assert cells.backed.isbacked
        assert outcome(path, "a") == "written"
        assert file["obs"].attrs["encoding-type"] == "dataframe"
        assert "a" in cells.uns


def test_a_folder_that_somebody_else_holds_is_not_waited_for_long(path, monkeypatch):
    monkeypatch.setattr(files, "_TURN_S", 0.05)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # as ``flock FOLDER python ...`` does for as long as it runs
        assert outcome(path, "a") == "written"
    finally:
        os.close(folder)


def relabel(path):
    obs = load_obs(path)
    obs["guide"] = pd.Categorical(["theirs"] * len(obs))
    write_obs(path, obs)


def shrink(path):
    """Put a file of a third of the cells and genes in its place."""
    cells = anndata.read_h5ad(path)[::3, ::3].copy()
    cells.write_h5ad(path.with_name("other"))
    path.with_name("other").replace(path)


def masked(path):
    arguments = ["convert", "subset", str(path), "-o", str(path.with_name("out.h5ad")), "--where", "plate > 0"]
    return main.cli.main(arguments, standalone_mode=False)


READ_THEN_WRITE = {
    "labels": (
        normalise,
        "map_labels",
        lambda path: normalise_perturbation_labels(path, "guide", canonical_control="x"),
    ),
    "gene names": (gene_names, "map_labels", standardise_gene_names),
    "standardised": (
        standardize,
        "symbols_of",
        lambda path: standardize_dataset(path, "guide", None, "feature_name", path.parent),
    ),
    "sorted": (sorting, "resolve_control_label", lambda path: sort_by_perturbation(path, "guide")),
    "subset": (cli_convert, "notice", masked),
}


@pytest.mark.parametrize("meanwhile", [relabel, shrink])
@pytest.mark.parametrize("what", READ_THEN_WRITE)
def test_what_was_read_of_one_version_is_not_written_into_another(tmp_path, what, meanwhile, monkeypatch):
    path = write_screen(tmp_path / "screen.h5ad")
    module, step, call = READ_THEN_WRITE[what]
    real, theirs = getattr(module, step), []

    def after_reading(*arguments, **named):
        if not theirs:
            meanwhile(path)
            theirs.append(path.read_bytes())
        return real(*arguments, **named)

    monkeypatch.setattr(module, step, after_reading)
    with pytest.raises(SourceChangedError):
        call(path)
    assert path.read_bytes() == theirs[0]
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == [path.name]
