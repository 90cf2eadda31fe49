"""A Census of which one file is damaged: a typed error, or what there is to read.

Damage that gives TileDB a length to believe is not here: it reserves up to 4 GB for one, see docs/reliability.md.
"""

from __future__ import annotations

import shutil

import pytest

from ingest.testing.census import CensusSpec, build_census
from ingest.testing.entry_points.base import attempt
from ingest.testing.entry_points.census import CENSUS
from ingest.testing.watch import watched_memory

MEMORY_BYTES = 512 << 20
DAMAGES = {
    "empty": lambda data: b"",  # noqa: ARG005
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
}
PLACES = (
    "census_info/__group",
    "census_info/__meta",
    "census_data/__group",
    "census_data/homo_sapiens/__group",
    "census_data/homo_sapiens/obs/__schema",
    "census_data/homo_sapiens/obs/__schema/__enumerations",
    "census_data/homo_sapiens/ms/RNA/var/__schema",
    "census_data/homo_sapiens/ms/RNA/X/raw/__schema",
    "census_data/homo_sapiens/ms/RNA/X/raw/__fragments",
    "census_data/homo_sapiens/ms/RNA/X/raw/__commits",
)


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=400, n_genes=200, mean_nnz_per_cell=30)
    return build_census(tmp_path_factory.mktemp("census") / "mini", spec).path


@pytest.fixture(scope="module")
def answers(census):
    return {entry.name: attempt(entry, census).answer for entry in CENSUS}


@pytest.mark.parametrize("place", PLACES)
def test_one_damaged_file(census, answers, tmp_path, place):
    assert None not in answers.values()
    refused = 0
    found = (census / place).rglob("*") if place.endswith("__fragments") else (census / place).iterdir()
    files = [path.relative_to(census) for path in sorted(found) if path.is_file()]
    for name in files:
        for damage, change in [*DAMAGES.items()][: 3 if len(files) < 6 else 1]:
            copy = tmp_path / "mini"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(census, copy)
            (copy / name).write_bytes(change((copy / name).read_bytes()))
            for entry in CENSUS:
                with watched_memory() as peak:
                    outcome = attempt(entry, copy)
                assert outcome.fault is None, (name, damage, entry.name)
                assert peak.taken_bytes < MEMORY_BYTES, (name, damage, entry.name)
                refused += outcome.answer is None
    assert refused or place.endswith(("__commits", "__meta")), "nobody read it"
