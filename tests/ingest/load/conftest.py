"""What tests of loading share: datasets, opened ones, and chunks that are cut into small stretches."""

from __future__ import annotations

import shutil

import pytest

from ingest.load.dataset import open_chunks
from ingest.testing.damage import DamageableDataset
from ingest.testing.shelf import Shelf


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("load"))


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch):
    """Chunks that are stored as they are have many stretches, too."""
    monkeypatch.setattr("ingest.load.read.chunk._PLAIN_ENTRIES", 48)
    monkeypatch.setattr("ingest.load.read.chunk._PLAIN_BYTES", 500)


@pytest.fixture(scope="session")
def dest(shelf):
    return shelf.made("float32-deflate")


@pytest.fixture(scope="session")
def plain(shelf):
    return shelf.plain("float32-deflate")


@pytest.fixture
def cells(dest):
    with open_chunks(dest, threads=2) as opened:
        yield opened


@pytest.fixture
def damageable(shelf, tmp_path):
    """Copy a dataset, so that it can be damaged."""

    def copy(kind: str = "float32-deflate") -> DamageableDataset:
        shutil.copytree(shelf.made(kind), tmp_path / kind)
        return DamageableDataset(tmp_path / kind, "h5" if kind.startswith("h5") else "h5ad")

    return copy
