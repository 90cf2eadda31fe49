"""SIGKILLs of workers, drivers and Ray nodes while real runs go on, and what the datasets are like in the end.

::

    python -m ingest.testing.kills --kills 1000 --seed 7

Rounds follow one another on one Ray cluster (`actors.testing.nodes`). In each a dataset is made by the command line
while a dozen of those who make it are killed, at moments that the seed decides in terms of receipts; whenever no
driver is left the same command goes on. At its end a round's content digest must equal that of a run that nobody
disturbed, every cell must be there exactly once as its source has it (`ingest.testing.exact`), and no driver may have
fetched again what was finished before it began.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import click
import psutil

from ingest.cli.style import Command
from ingest.testing.datasets import write_h5ad_index, write_sources
from ingest.testing.exact import Compared, Truth, compare_cells, read_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Arena", "Kill", "Nodes", "Round", "draw_kills", "fight", "open_arena"]

Victim = Literal["worker", "driver", "raylet", "machine"]

_TEN: tuple[Victim, ...] = ("worker",) * 5 + ("driver",) * 3 + ("raylet", "machine")
"""Of any ten kills in a row, so many of each."""
_NODES = 2
_LIVES = 12
"""Runs without a kill that a round may need to end: each may come back with what passing trouble has left."""
_PATIENCE_S = 600.0
"""How long nothing may move before a round has failed."""
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Kill:
    """One death to come."""

    victim: Victim
    """``raylet``: a node's own process, whose workers go on for seconds; ``machine``: all that runs on the node."""
    after: int
    """Receipts that appear before it."""
    pause_s: float
    """Waited beside: anywhere in the making of a chunk."""
    choice: float
    """Which of several, in [0, 1)."""


def draw_kills(n_kills: int, seed: int) -> list[Kill]:
    """Return what the seed decides; pure."""
    draw = random.Random(seed)  # noqa: S311  # seeded moments, no secrets
    kills: list[Kill] = []
    while len(kills) < n_kills:
        kills += [
            Kill(victim, draw.randint(0, 6), draw.uniform(0.0, 0.05), draw.random())
            for victim in draw.sample(_TEN, len(_TEN))
        ]
    return kills[:n_kills]


@dataclass(slots=True)
class Round:
    """How one dataset came about."""

    number: int
    killed: Counter[Victim] = field(default_factory=Counter)
    lives: int = 0
    """Drivers that it took."""
    seconds: float = 0.0
    digest_equal: bool = False
    fetched_again: int = 0
    """Chunks begun by a driver although they had a receipt when it started."""
    compared: Compared | None = None
    exit_codes: list[int | None] = field(default_factory=list)
    """Of drivers that ended badly, though nobody killed them."""
    clusters_lost: int = 0

    @property
    def good(self) -> bool:
        """Whether the dataset is what an undisturbed run makes."""
        return self.digest_equal and not self.fetched_again and self.compared is not None and self.compared.equal

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        # Python 3.11's asdict makes a Counter of a Counter's pairs.
        compared = None if self.compared is None else asdict(self.compared)
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "killed": dict(self.killed), "compared": compared, "good": self.good}

    def __str__(self) -> str:
        """Say it in a line."""
        who = ", ".join(f"{n} {victim}{'s' if n > 1 else ''}" for victim, n in sorted(self.killed.items()))
        digest = "digest equal" if self.digest_equal else "DIGEST DIFFERS"
        again = f", {self.fetched_again} chunks FETCHED AGAIN" if self.fetched_again else ""
        return (
            f"round {self.number}: {self.killed.total()} kills ({who}), {self.lives} drivers, {self.seconds:.0f} s: "
            f"{digest}{again}; {self.compared}"
        )


class NodesLostError(Exception):
    """The cluster as such has ended, which is nobody's fault here: a round goes on with another."""


class Nodes:
    """A Ray cluster of nodes that are there to be killed.

    Parameters
    ----------
    log
        Takes what Ray complains of.
    jobs
        Run a job server; `jobs_url` is its address then.
    python
        The interpreter of all its nodes, which need not have this package.
    """

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        n_nodes: int = _NODES,
        *,
        jobs: bool = False,
        python: str = sys.executable,
    ) -> None:
        program = Path(__file__).parents[2] / "actors" / "testing" / "nodes.py"
        with log.open("ab") as complaints:
            self._process = subprocess.Popen(  # noqa: S603  # a module of this project
                [python, str(program), "1", *(["jobs"] if jobs else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                env=environment,
            )
        self._family: set[psutil.Process] = set()
        self.address, _, self.jobs_url = self._answer().partition(" ")
        self._raylets = [self._add() for _ in range(n_nodes)]

    def _pipe(self, name: Literal["stdin", "stdout"]) -> IO[str]:
        pipe = getattr(self._process, name)
        assert pipe is not None  # noqa: S101  # asked for above
        return pipe  # type: ignore[no-any-return]  # getattr's

    def _answer(self) -> str:
        said = self._pipe("stdout").readline().strip()
        if not said:
            raise NodesLostError(f"the Ray nodes have ended (exit code {self._process.wait(timeout=60)})")
        return said

    def _say(self, line: str) -> str:
        self._pipe("stdin").write(f"{line}\n")
        self._pipe("stdin").flush()
        return self._answer()

    def _add(self) -> psutil.Process:
        try:
            return psutil.Process(int(self._say("add")))
        except (BrokenPipeError, psutil.NoSuchProcess) as error:
            raise NodesLostError("a Ray node does not start") from error

    def drain_node(self) -> bool:
        """Have the oldest node called back, as a spot machine is, and start another in its place; say if Ray agrees."""
        raylet = self._raylets.pop(0)
        agreed = self._say(f"drain {raylet.pid}") == "True"
        self._raylets.append(self._add())
        return agreed

    def processes(self) -> list[psutil.Process]:
        """Return all processes of all nodes, oldest first."""
        return self._children()

    def workers(self) -> list[psutil.Process]:
        """Return the processes that hold a worker, oldest first."""
        family = self._children()
        return [process for process in family if _title(process).startswith("ray::WorkerActor")]

    def _children(self) -> list[psutil.Process]:
        try:
            family = _children(psutil.Process(self._process.pid))
        except psutil.NoSuchProcess as error:
            raise NodesLostError("the Ray nodes have ended") from error
        self._family.update(family)
        return family

    def kill_node(self, choice: float, *, machine: bool) -> None:
        """Kill a node, with all that runs on it when `machine`, and start another in its place."""
        raylet = self._raylets.pop(int(choice * len(self._raylets)))
        family = _children(raylet)
        self._family.update(family)
        for process in (raylet, *(family if machine else ())):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._raylets.append(self._add())

    def kill_all(self) -> None:
        """Kill every process of the cluster, the head's first; another is another cluster."""
        for process in (psutil.Process(self._process.pid), *self._children()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def close(self) -> None:
        """End every process of the cluster; those of a killed node, too."""
        with suppress(NodesLostError):
            self._children()
        try:
            self._process.communicate(timeout=60)  # closes its input
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        for process in self._family:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass(slots=True, eq=False)
class Arena:
    """Sources, a cluster, and what comes of them when nobody is killed."""

    folder: Path
    index: Path
    truth: Truth
    n_chunks: int
    cells_per_chunk: int
    digest: str
    """Of the dataset that an undisturbed run makes."""
    nodes: Nodes
    environment: dict[str, str]

    def start(self, dest: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a driver: the same command, whatever is there already."""
        environment = {**self.environment, "RAY_ADDRESS": self.nodes.address, "RAY_AUTH_MODE": "disabled"}
        return _start(dest, self.index, self.cells_per_chunk, ("-d", str(_NODES)), environment, log)

    def revive(self) -> None:
        """Run another cluster in place of one that has ended."""
        self.nodes.close()
        self.nodes = Nodes(self.environment, self.folder / "nodes.log")


@contextmanager
def open_arena(folder: Path, *, n_cells: int = 2_000, cells_per_chunk: int = 5) -> Iterator[Arena]:
    """Make sources in `folder`, ingest them undisturbed, and run a cluster until the block ends."""
    files = write_sources(folder / "sources", n_files=2, n_cells=n_cells // 2, n_genes=60)
    index = write_h5ad_index(folder / "index.feather", files)
    environment = _clean_environment(folder)
    reference = folder / "undisturbed"
    with (folder / "undisturbed.log").open("wb") as log:
        driver = _start(reference, index, cells_per_chunk, ("--pool", "serial"), environment, log)
        if driver.wait(timeout=_PATIENCE_S):
            raise RuntimeError(f"the undisturbed run failed: {folder / 'undisturbed.log'}")
    arena = Arena(
        folder,
        index,
        read_truth(files, index),
        len(_receipts(reference)),
        cells_per_chunk,
        _digest(reference),
        Nodes(environment, folder / "nodes.log"),
        environment,
    )
    try:
        yield arena
    finally:
        arena.nodes.close()


def fight(arena: Arena, number: int, kills: deque[Kill], *, most: int) -> Round:
    """Make one dataset while up to `most` of `kills` are carried out; those that are, are taken from the left.

    Raises
    ------
    RuntimeError
        The dataset is not finished after a dozen runs that nobody disturbed, or nothing moves any more.
    """
    outcome, dest, start = Round(number), arena.folder / f"round-{number}", time.monotonic()
    with (arena.folder / f"round-{number}.log").open("ab") as log:
        undisturbed = 0
        while undisturbed < _LIVES:
            before, claimed = _receipts(dest), set(_claims(dest))
            driver = arena.start(dest, log)
            outcome.lives += 1
            killed, code = True, None
            try:
                killed = _harass(arena, driver, dest, kills, outcome, most)
                code = driver.wait(timeout=_PATIENCE_S)
            except NodesLostError:
                outcome.clusters_lost += 1
                arena.revive()
            finally:
                driver.kill()
                driver.wait()
            # Only claims of this driver's own run: workers of one that was killed may be at it for seconds.
            fresh = [chunks for run, chunks in _claims(dest).items() if run not in claimed]
            outcome.fetched_again += sum(len(before.intersection(chunks)) for chunks in fresh)
            if code == 0:
                break
            if not killed:
                outcome.exit_codes.append(code)
                undisturbed += outcome.killed.total() >= most or not kills
    outcome.seconds = time.monotonic() - start
    outcome.digest_equal = (dest / "_SUCCESS.json").exists() and _digest(dest) == arena.digest
    outcome.compared = compare_cells(dest, arena.truth)
    return outcome


def _harass(
    arena: Arena, driver: subprocess.Popen[bytes], dest: Path, kills: deque[Kill], outcome: Round, most: int
) -> bool:
    """Carry out kills until the driver has ended or they are used up; say whether the driver was killed."""
    while kills and outcome.killed.total() < most:
        kill = kills[0]
        wanted = min(len(_receipts(dest)) + kill.after, arena.n_chunks)
        _wait_until(partial(_has_come_to, driver, dest, wanted))
        time.sleep(kill.pause_s)
        if driver.poll() is not None or not _carry_out(arena, driver, kill):
            return False
        outcome.killed[kills.popleft().victim] += 1
        if kill.victim == "driver":
            return True
    return False


def _carry_out(arena: Arena, driver: subprocess.Popen[bytes], kill: Kill) -> bool:
    """Kill; False when the driver ended before there was anybody to kill."""
    if kill.victim == "driver":
        driver.send_signal(signal.SIGKILL)
    elif kill.victim == "worker":
        _wait_until(lambda: driver.poll() is not None or bool(arena.nodes.workers()))
        workers = arena.nodes.workers()
        if not workers:
            return False
        with suppress(psutil.NoSuchProcess):
            workers[int(kill.choice * len(workers))].kill()
    else:
        arena.nodes.kill_node(kill.choice, machine=kill.victim == "machine")
    return True


def _has_come_to(driver: subprocess.Popen[bytes], dest: Path, n_receipts: int) -> bool:
    """Say whether so many chunks exist, or the driver has ended."""
    return driver.poll() is not None or len(_receipts(dest)) >= n_receipts


def _wait_until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while not happened():
        if time.monotonic() > give_up:
            raise RuntimeError(f"nothing has moved for {_PATIENCE_S:.0f} s")
        time.sleep(_POLL_S)


def _start(
    dest: Path,
    index: Path,
    cells_per_chunk: int,
    more: Sequence[str],
    environment: dict[str, str],
    log: IO[bytes],
) -> subprocess.Popen[bytes]:
    arguments = ["run", str(dest), "--index", str(index), "-c", str(cells_per_chunk), *more]
    return subprocess.Popen(  # noqa: S603  # this project's own program
        [sys.executable, "-m", "ingest", *arguments], env=environment, stdout=log, stderr=log
    )


def _clean_environment(folder: Path) -> dict[str, str]:
    """Return an environment without settings, caches and clusters of the person's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CELL_INGEST_", "AWS_"))}
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": path}


def _receipts(dest: Path) -> set[int]:
    folder = dest / "_ingest" / "receipts"
    names = os.listdir(folder) if folder.exists() else []  # noqa: PTH208  # a hundred times a second
    return {int(name.split("-")[0]) for name in names if name.endswith(".json") and not name.startswith(".")}


def _claims(dest: Path) -> dict[str, set[int]]:
    """Return run -> chunks whose fetching it began."""
    found: dict[str, set[int]] = {}
    for path in (dest / "_ingest" / "runs").glob("*/unit-*.json"):
        found.setdefault(path.parent.name, set()).update(json.loads(path.read_text())["chunks"])
    return found


def _digest(dest: Path) -> str:
    return str(json.loads((dest / "_SUCCESS.json").read_text())["digest"])


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


@click.command(
    cls=Command,
    examples=(
        "python -m ingest.testing.kills --kills 20 --seed 1",
        "python -m ingest.testing.kills --kills 1000 --seed 7 --json",
    ),
)
@click.option("--kills", "n_kills", type=click.IntRange(1), default=100, show_default=True, metavar="N")
@click.option("--seed", type=int, default=1, show_default=True, metavar="N")
@click.option(
    "--each", type=click.IntRange(1), default=12, show_default=True, metavar="N", help="Kills of one dataset."
)
@click.option("--json", "as_json", is_flag=True, help="All rounds as JSON on stdout.")
def main(*, n_kills: int, seed: int, each: int, as_json: bool) -> None:
    """Kill workers, drivers and nodes of real runs on Ray, and compare every dataset with its sources.

    Exit code 1 when a cell was lost, doubled or altered; what that run left behind is kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    kills, rounds = deque(draw_kills(n_kills, seed)), list[Round]()
    with open_arena(folder) as arena:
        while kills:
            rounds.append(fight(arena, len(rounds) + 1, kills, most=each))
            click.echo(str(rounds[-1]), err=True)
            if rounds[-1].good:
                shutil.rmtree(folder / f"round-{len(rounds)}")
    bad = [one for one in rounds if not one.good]
    killed = sum((one.killed for one in rounds), Counter[Victim]())
    if as_json:
        click.echo(json.dumps([one.facts() for one in rounds], indent=1))
    who = ", ".join(f"{n} {victim}s" for victim, n in sorted(killed.items()))
    click.echo(f"{killed.total():,} kills ({who}), {len(rounds)} datasets, {len(bad)} of them wrong", err=True)
    if bad:
        click.echo(f"kept: {folder}", err=True)
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
