"""The product as its users meet it: the command line, in a process of its own where that is the point.

Starting a process costs two seconds of importing, starting a Ray eight; most commands are run in this process
(`ingest`), on the one Ray that all tests share. Whoever is to be interrupted, killed or beside another is a process
(`program`), and what it is like to start a Ray is asked there as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ingest.cli.main import main
from ingest.testing.census import CensusSpec, build_census

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from actors.cluster import Connection
    from ingest.testing.census import BuiltCensus

OUTSIDE = dict(os.environ)
"""As it was before any Ray set variables of its own."""

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
    kept = {name: value for name, value in OUTSIDE.items() if not name.startswith(("RAY_", "CELL_INGEST_", "AWS_"))}
    # Ray ends workers where other work fills the machine's memory: that is not what is tested.
    own = {"RAY_memory_monitor_refresh_ms": "0", "COLUMNS": "120"}
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **own}


@contextlib.contextmanager
def surroundings(variables: Mapping[str, str], cwd: Path | None) -> Iterator[None]:
    """Be where a process with these variables, and no others, would be."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - variables.keys():
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        yield


def checked(ran: Ran, arguments: tuple[object, ...], code: int | None) -> Ran:
    assert code is None or ran.code == code, f"{arguments}\n{ran.out}\n{ran.err}"
    return ran


@pytest.fixture(scope="session")
def ingest(environment: dict[str, str], local_ray: Connection) -> Callable[..., Ran]:
    """Run a command to its end, in this process."""
    del local_ray  # where ``--pool ray`` finds itself

    def run(*arguments: object, env: Mapping[str, str] = {}, cwd: Path | None = None, code: int | None = 0) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with (
            surroundings({**environment, **env}, cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main([str(argument) for argument in arguments])
        return checked(Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue()), arguments, code)

    return run


@pytest.fixture(scope="session")
def program(environment: dict[str, str]) -> Callable[..., Ran]:
    """Run ``python -m ingest`` to its end, in a process and on a Ray of its own."""

    def run(*arguments: object, env: Mapping[str, str] = {}, code: int | None = 0) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "ingest", *map(str, arguments)],
            env={**environment, **env},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return checked(Ran(done.returncode, done.stdout, done.stderr), arguments, code)

    return run


@pytest.fixture(scope="session")
def joined(environment: dict[str, str], local_ray: Connection) -> dict[str, str]:
    """The environment of a process that joins the Ray all tests share, instead of starting one."""
    token = {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"), "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
    return {**environment, **token, "RAY_ADDRESS": local_ray.address}


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
