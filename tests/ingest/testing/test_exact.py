from __future__ import annotations

import shutil

import h5py
import pytest

from ingest.settings import DataSettings
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.testing.exact import Compared, compare_cells, read_truth
from ingest.testing.kills import draw_kills


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    files = write_sources(folder, n_files=2, n_cells=6, n_genes=5)
    index = write_h5ad_index(folder / "index.feather", files)
    make_dataset(str(folder / "dest"), index, data=DataSettings(cells_per_chunk=5))
    return folder / "dest", read_truth(files, index)


@pytest.fixture
def dest(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "dest")
    return tmp_path / "dest"


def test_a_right_dataset_is_equal(made):
    assert compare_cells(*made) == Compared(12, 0, 0, 0)


def test_every_kind_of_difference_is_seen(made, dest):
    chunks = sorted((dest / "chunks").iterdir())
    shutil.copy(chunks[2], dest / "chunks" / "chunk_000003.h5ad")
    assert compare_cells(dest, made[1]) == Compared(12, 0, 2, 0)
    (dest / "chunks" / "chunk_000003.h5ad").unlink()
    chunks[2].unlink()
    assert compare_cells(dest, made[1]) == Compared(12, 2, 0, 0)
    with h5py.File(chunks[0], "r+") as file:
        scores = file["obs/score"][()]
        del file["obs/score"]
        file["obs/score"] = scores[::-1].copy()  # of five, the one in the middle stays
    assert compare_cells(dest, made[1]) == Compared(12, 2, 0, 4)
    chunks[0].unlink()
    with h5py.File(chunks[1], "r+") as file:
        values = file["X/data"][()]
        values[0] += 1
        del file["X/data"]
        file["X/data"] = values
    compared = compare_cells(dest, made[1])
    assert compared == Compared(12, 7, 0, 1)
    assert not compared.equal
    assert str(compared) == "of 12 cells 7 lost, 0 doubled, 1 altered"


def test_kills_are_the_seeds_and_of_all_kinds():
    kills = draw_kills(25, seed=3)
    assert kills == draw_kills(30, seed=3)[:25]
    assert kills != draw_kills(25, seed=4)
    assert [
        sum(kill.victim == victim for kill in kills[:20]) for victim in ("worker", "driver", "raylet", "machine")
    ] == [
        10,
        6,
        2,
        2,
    ]
