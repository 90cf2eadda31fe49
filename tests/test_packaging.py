"""Three generic top-level names in one distribution: they must be ours."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from pathlib import Path

import pytest

import ingest


@pytest.mark.parametrize("name", ["ingest", "index", "actors"])
def test_the_installed_names_belong_to_this_distribution(name: str):
    # Twice where an editable installation left its egg-info in the checkout, from where `python -m pytest` imports too.
    assert set(importlib.metadata.packages_distributions().get(name, ["cell-ingest"])) == {"cell-ingest"}
    assert set(importlib.metadata.packages_distributions().get(name, ["cell-ingest"])) == {"cell-ingest"}
    package = importlib.import_module(name)
    assert Path(package.__file__).parent.parent == Path(ingest.__file__).parent.parent
    assert importlib.resources.files(name).joinpath("py.typed").is_file()


def test_metadata():
    about = importlib.metadata.metadata("cell-ingest")
    assert about["Version"] == ingest.__version__
    assert about["License-Expression"] == "Apache-2.0"


def test_every_dependency_is_pinned_without_an_index_address():
    root = Path(ingest.__file__).parent.parent
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    assert "://" not in "\n".join(lines)
    pinned = {line.split("==")[0].lower().replace("_", "-").replace(".", "-") for line in lines}
    for requirement in importlib.metadata.requires("cell-ingest") or []:
        if "extra ==" not in requirement or "extra == 'dev'" in requirement or 'extra == "dev"' in requirement:
            name = requirement.split(";")[0].split("[")[0]
            for mark in "<>=!~ ":
                name = name.split(mark)[0]
            assert name.lower().replace("_", "-") in pinned
