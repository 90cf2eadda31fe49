"""The hostile corpus through every function of tables, keys and handles that opens a file, in this process."""

from __future__ import annotations

import pickle

import anndata
import numpy as np
import pandas as pd
import pytest

from ingest import stream
from ingest.errors import HostileFileError, IngestError
from ingest.testing.h5ad_files import hostile_files
from ingest.testing.h5ad_hostile import ACCEPTED
from ingest.testing.h5ad_same import assert_same

N_OBS, N_VARS = 24, 40
AT_ONCE = {
    "external-link",
    "external-storage",
    "virtual-dataset",
    "declared-size",
    "link-cycle",
    "truncated",
    "not-hdf5",
}
"""Rules whose breach is seen when a file is opened."""
VALUES = {ACCEPTED, "not-finite", "negative", "fractional", "duplicate-entry", "duplicate-gene"}
"""Rules of counts, not of files: what is no count is read as it is."""
OF_OBS = {"fewer-obs", "not-utf8-obs", "not-utf8-label", "label-code-beyond", "bomb-column"}
OF_VAR = {"not-utf8-gene"}
LATER = {
    "obs": OF_OBS,
    "var": OF_VAR,
    "column": {"fewer-obs", "bomb-column", "not-utf8-obs"},
    "extents": {"fewer-obs", "bomb-column"},
    "header": {"unknown-encoding"},
}
ALONE = {"no-obs", "zeroed-header", "bomb-chunk"}
"""Seen when a file is opened, by rules that others break later."""


def uns(path):
    return {key: entry.load() for key, entry in stream.AnnData(path).uns.items()}


READING = {
    "load_obs": (stream.load_obs, "obs"),
    "load_var": (stream.load_var, "var"),
    "obs view": (lambda path: stream.AnnData(path).obs.load(), "obs"),
    "obs column": (lambda path: stream.AnnData(path).obs["score"], "column"),
    "obs head": (lambda path: stream.AnnData(path).obs.head(N_OBS), "obs"),
    "shape": (lambda path: stream.AnnData(path).shape, "extents"),
    "uns": (uns, None),
    "is_dense_storage": (stream.is_dense_storage, "header"),
    "get_matrix_storage_format": (stream.get_matrix_storage_format, "header"),
    "read_h5ad_ondisk": (stream.read_h5ad_ondisk, "matrix"),
    "read_backed": (stream.read_backed, "matrix"),
    "backed": (lambda path: stream.AnnData(path).backed, "matrix"),
    "to_memory": (lambda path: stream.AnnData(path).to_memory(), "all"),
}
WRITING = {
    "write_obs": lambda path: stream.write_obs(path, pd.DataFrame(index=range(N_OBS))),
    "write_var": lambda path: stream.write_var(path, pd.DataFrame(index=range(N_VARS))),
    "write_obsm": lambda path: stream.write_obsm_to_h5ad(path, "k", np.ones((N_OBS, 2))),
    "write_varm": lambda path: stream.write_varm_to_h5ad(path, "k", np.ones((N_VARS, 2))),
    "write_obsp": lambda path: stream.write_obsp_to_h5ad(path, "k", np.ones((N_OBS, N_OBS))),
    "write_uns": lambda path: stream.write_uns_dict_to_h5ad(path, "k", {"a": 1}),
}


@pytest.fixture(scope="module", params=["csr", "csc"])
def corpus(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("hostile")
    return hostile_files(folder, layout=request.param, bomb_bytes=1 << 26)


def attempt(function, path):
    """Return what came, or the error, which must be a good one."""
    try:
        return function(path)
    except IngestError as error:
        found = error
    assert "\n" not in str(found)
    assert path.name in str(found)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)  # noqa: S301 # our own
    return found


@pytest.mark.parametrize("name", READING)
@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.sampled(3)
def test_reading(corpus, name, capsys):
    function, part = READING[name]
    good = anndata.read_h5ad(next(iter(corpus.values())).path.with_name("good.h5ad"))
    wrong = []
    for kind, (path, rule) in corpus.items():
        found = attempt(function, path)
        at_once = rule in AT_ONCE or kind in ALONE
        refused = isinstance(found, IngestError)
        if part == "all":
            fine = refused != (rule in VALUES or kind == "no-matrix")
        elif part == "matrix":  # values and column numbers of X are not read, but for a corner
            fine = refused or not at_once
        else:
            fine = refused == (at_once or kind in LATER.get(part, ()))
        if not fine:
            wrong.append((kind, rule, found))
        elif refused and kind in ("fewer-obs", "bomb-column"):
            assert found.kind == "shape"  # by their headers: nothing of them is decoded
        elif name in ("load_obs", "obs view"):
            pd.testing.assert_frame_equal(found, good.obs) if not refused else None
        elif part == "all" and not refused:
            assert_same(found, anndata.read_h5ad(path))
    assert wrong == []
    capsys.readouterr()


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.sampled(3)
def test_writing(corpus, name):
    for kind, (path, rule) in corpus.items():
        before = path.read_bytes()
        found = attempt(WRITING[name], path)
        if rule in AT_ONCE or kind in ALONE:
            assert isinstance(found, IngestError), kind
        if isinstance(found, IngestError):
            assert path.read_bytes() == before, kind
        else:
            path.write_bytes(before)
    assert not [path for path in path.parent.iterdir() if path.name.startswith(".")]


def test_the_corner_of_x_is_looked_at(corpus):
    for kind in ("index-negative", "index-wraps", "indptr-start", "indptr-negative", "indptr-order"):
        with pytest.raises(HostileFileError, match=f"{kind}.h5ad: X/ind"):
            stream.read_h5ad_ondisk(corpus[kind].path)


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_columns_of_x_are_never_out_of_range(corpus):
    """scipy reads foreign memory by them: whatever of X is asked of a handle in memory has been looked at."""
    for kind in ("index-negative", "index-beyond", "index-wraps", "indptr-order", "indptr-negative", "indptr-end"):
        with pytest.raises(HostileFileError, match=f"{kind}.h5ad: X"):
            stream.AnnData(corpus[kind].path).to_memory()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.sampled(3)
def test_random_damage(corpus, tmp_path, seed):
    """Whatever is changed in a file: a good error or a result, in a process that lives; a refused input stays."""
    rng = np.random.default_rng(seed)
    good = next(iter(corpus.values())).path.with_name("good.h5ad").read_bytes()
    path = tmp_path / "a.h5ad"
    functions = [function for function, _ in READING.values()] + list(WRITING.values())
    for _ in range(40):
        damaged = np.frombuffer(good, np.uint8).copy()
        where = rng.integers(0, len(damaged), rng.choice([1, 2, 8]))
        damaged[where] = rng.choice([rng.integers(0, 256, len(where)), np.full(len(where), 255)])
        path.write_bytes(damaged.tobytes())
        function = functions[rng.integers(len(functions))]
        found = attempt(function, path)
        if isinstance(found, IngestError):
            assert path.read_bytes() == damaged.tobytes()
        elif function is READING["read_backed"][0]:
            found.file.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5ad"]
