"""Killed at any write, or out of disk at any byte: the input is what it was, and nothing else has its kind of name."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from ingest import stream
from ingest.errors import ConfigError
from ingest.stream import files, hdf5
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

N_OBS, N_VARS = 300, 200


def noise(*shape):
    """Draw what does not shrink when it is gzipped."""
    return np.random.default_rng(0).random(shape)


def table(n_rows):
    return pd.DataFrame(noise(n_rows, 60)).add_prefix("c")


WRITES = {
    "obs": lambda path: stream.write_obs(path, table(N_OBS)),
    "var": lambda path: stream.write_var(path, table(N_VARS)),
    "obsm": lambda path: stream.write_obsm_to_h5ad(path, "k", noise(N_OBS, 50)),
    "varm": lambda path: stream.write_varm_to_h5ad(path, "k", noise(N_VARS, 50)),
    "obsp": lambda path: stream.write_obsp_to_h5ad(path, "k", sparse.csr_matrix(noise(N_OBS, N_OBS))),
    "uns": lambda path: stream.write_uns_dict_to_h5ad(path, "k", {"a": noise(10_000)}),
}
FULL, OTHERWISE = 10, 11


@pytest.fixture
def path(tmp_path):
    return write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(N_OBS, N_VARS), compression="gzip")


def in_a_child(prepare, write, path):
    """Return how a process ends that does this: its exit code, or the signal's negative number."""
    child = os.fork()
    if child == 0:
        code = OTHERWISE
        try:
            prepare()
            write(path)
            code = 0
        except ConfigError as error:
            code = FULL if error.kind == "disk-full" and "\n" not in str(error) else OTHERWISE
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def entries(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def visible(path):
    return [name for name in entries(path) if not name.startswith(".")]


def die_after(owner, name, count):
    """Make the process kill itself in the `count`-th call of a function."""

    def prepare():
        function, calls = getattr(owner, name), []

        def counted(*arguments, **options):
            calls.append(1)
            if len(calls) > count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        setattr(owner, name, counted)

    return prepare


@pytest.mark.parametrize("write", WRITES)
def test_killed(path, write):
    before = path.read_bytes()
    points = [(hdf5.OutputFile, "write", count) for count in (0, 1, 3, 6, 10, 20)]
    points += [(files, "_copy", 0), (hdf5.OutputFile, "close", 0), (os, "fsync", 0), (Path, "replace", 0)]
    killed = 0
    for owner, name, count in points:
        code = in_a_child(die_after(owner, name, count), WRITES[write], path)
        assert code in (0, -signal.SIGKILL), (name, count)
        if code == 0:  # so few writes were enough
            path.write_bytes(before)
            continue
        killed += 1
        assert path.read_bytes() == before, (name, count)
        assert visible(path) == ["a.h5ad"]
    assert killed >= 8
    # After the rename, with the folder not yet synced, it is the new file whole.
    assert in_a_child(die_after(os, "fsync", 1), WRITES[write], path) == -signal.SIGKILL
    assert anndata.read_h5ad(path).shape == (N_OBS, N_VARS)
    WRITES[write](path)  # what was left behind is in nobody's way


@pytest.mark.parametrize("write", WRITES)
def test_out_of_disk(path, write):
    before = path.read_bytes()
    after = path.with_name("b.h5ad")
    after.write_bytes(before)
    WRITES[write](after)
    size = after.stat().st_size
    after.unlink()
    assert size > len(before) + 20_000
    for limit in (1, len(before) - 1, len(before), len(before) + 3_000, (len(before) + size) // 2, size - 1):

        def narrow(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        assert in_a_child(narrow, WRITES[write], path) == FULL, (limit, len(before), size)
        assert path.read_bytes() == before
        assert entries(path) == ["a.h5ad"]


def test_an_error_leaves_nothing(path, monkeypatch):
    before = path.read_bytes()

    def fail(*_, **__):
        raise RuntimeError("in the middle of it")

    monkeypatch.setattr(anndata.io, "write_elem", fail)
    with pytest.raises(ValueError, match="in the middle of it"):
        stream.write_uns_dict_to_h5ad(path, "k", {"a": 1})
    assert path.read_bytes() == before
    assert entries(path) == ["a.h5ad"]
