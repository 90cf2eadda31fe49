"""The product as its users meet it: the command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ingest.testing.census import CensusSpec, build_census

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ingest.testing.census import BuiltCensus

REAL_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment of the tests' own: no cache, no token file, no cluster of the person who runs them."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CELL_INGEST_", "AWS_"))}
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "COLUMNS": "120"}


@pytest.fixture(scope="session")
def ingest(environment: dict[str, str]) -> Callable[..., Ran]:
    """Run ``python -m ingest`` to its end."""

    def run(*arguments: object, env: Mapping[str, str] = {}, cwd: Path | None = None, code: int | None = 0) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "ingest", *map(str, arguments)],
            env={**environment, **env},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, f"{arguments}\n{ran.out}\n{ran.err}"
        return ran

    return run


@pytest.fixture(scope="session")
def census(tmp_path_factory: pytest.TempPathFactory) -> BuiltCensus:
    """A Census of 6,000 cells in three bands, 5,000 genes."""
    spec = CensusSpec(n_cells=6_000, n_genes=5_000, mean_nnz_per_cell=300, seed=7)
    return build_census(tmp_path_factory.mktemp("census") / "census", spec)


@pytest.fixture(scope="session")
def census_index(census: BuiltCensus, ingest: Callable[..., Ran], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The primary cells of `census`."""
    path = tmp_path_factory.mktemp("index") / "index.feather"
    ingest("index", "census", "--uri", census.uri, "-o", path)
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files, or a skip."""
    if not REAL_DATA.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return REAL_DATA.resolve()
