"""Names of cells: those in the chunks, found by number and the other way round."""

from __future__ import annotations

import re

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError, CorruptError
from ingest.load.dataset import open_chunks
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.datasets import write_census_index
from ingest.testing.shelf import make_blocky

N = 106


@pytest.mark.parametrize("kind", ["float32-deflate", "float32-none", "h5-zstd"])
@settings(max_examples=10)
@given(rows=st.lists(st.integers(0, N - 1), max_size=40))
def test_names_are_the_chunks(shelf, kind, rows):
    names = shelf.plain(kind).names
    with open_chunks(shelf.made(kind)) as cells:
        assert cells.cell_ids(rows) == [names[row] for row in rows]
        assert cells.find([names[row] for row in rows]).tolist() == rows


@pytest.mark.parametrize("name", ["", "no such cell", "float32-a", "0/x", "9" * 30, "\u0663"])
def test_no_such_name(cells, plain, name):
    with pytest.raises(ConfigError, match="no cell") as raised:
        cells.find([plain.names[0], name])
    assert raised.value.kind == "unknown-cell"
    assert cells.find([]).tolist() == []


def test_a_heap_of_texts_that_hdf5_would_walk_for_ever_is_damage(damageable):
    """Free space of no bytes, as the first of each heap's objects."""
    dest = damageable()
    path = dest.chunk(4)
    path.write_bytes(re.sub(rb"(GCOL\x01\0{3}.{8}).{16}", rb"\1" + bytes(16), path.read_bytes(), flags=re.DOTALL))
    with open_chunks(dest.path) as cells, pytest.raises(CorruptError, match="the heap of texts at byte") as raised:
        cells.cell_ids([80])
    assert (raised.value.kind, raised.value.chunk) == ("chunk-damaged", 4)


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    """Cells of a Census are named by their joinids, which the index has."""
    folder = tmp_path_factory.mktemp("census")
    built = build_census(folder / "census", CensusSpec(n_cells=60, n_genes=60, mean_nnz_per_cell=10))
    make_blocky(str(folder / "dest"), write_census_index(folder / "index.feather", built))
    chunks = [anndata.read_h5ad(path) for path in sorted((folder / "dest" / "chunks").iterdir())]
    return folder / "dest", [name for chunk in chunks for name in chunk.obs_names]


def test_names_of_a_census(census):
    dest, names = census
    with open_chunks(dest) as cells:
        rows = np.random.default_rng(0).permutation(len(names))
        assert cells.cell_ids(rows) == [names[row] for row in rows]
        assert cells.find([names[row] for row in rows]).tolist() == rows.tolist()


def test_no_chunk_is_opened_for_names_of_a_census(census, monkeypatch):
    dest, names = census
    with open_chunks(dest) as cells:
        monkeypatch.setattr("h5py.File", None)
        assert cells.cell_ids([5, 3]) == [names[5], names[3]]


@pytest.mark.parametrize("name", ["9" * 30, "-1", "0001", "\u0663", "1_0", "x:3", "1e1", " 3"])
def test_no_such_number(census, name):
    dest, _ = census
    with open_chunks(dest) as cells, pytest.raises(ConfigError, match="no cell"):
        cells.find([name])
