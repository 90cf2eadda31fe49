"""Hypothesis without deadlines: two cores shared by several suites say nothing about the code's speed.

Few plots, and a dataset to look at and to spoil.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from ingest.testing.damage import DamageableDataset
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.testing.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

settings.register_profile("suite", deadline=None, max_examples=examples(35))
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def plots_of_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let nothing be drawn but in tests marked ``plots``: it takes ten times what all else does.

    What stands in differs where plots would.
    """
    if request.node.get_closest_marker("plots"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.hvg.plot.draw_hvgs", lambda found, *_, **__: repr(found.choice.genes).encode())
        patch.setattr("ingest.qc.plot.draw_qc", lambda _request, _found, document: repr(document["rules"]).encode())
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 chunks of 7 cells (the last 4) of two h5ad files; chunk 4 has cells of both. Nobody changes it."""
    folder = tmp_path_factory.mktemp("nine-chunks")
    index = write_h5ad_index(folder / "index.feather", write_sources(folder / "sources"))
    make_dataset(str(folder / "finished"), index)
    return folder / "finished"


@pytest.fixture
def dest(finished: Path, tmp_path: Path) -> DamageableDataset:
    """A copy of it, to spoil."""
    shutil.copytree(finished, tmp_path / "dest")
    return DamageableDataset(tmp_path / "dest")
