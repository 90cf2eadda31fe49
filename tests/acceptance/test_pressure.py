"""Stores that throttle, disks that are full, workers that freeze, memory that ends: it slows down, says so, goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from ingest.testing.fault_proxy import Fault, FaultProxy
from ingest.testing.kills import Nodes
from ingest.testing.servers import fast_s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ingest.testing.fault_proxy import Seen

CHUNKS = ("-n", 3_000, "-c", 50)


class Throttle:
    """So many requests a second are served, and no more."""

    def __init__(self, rate: float, burst: float = 5.0) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._last = burst, time.monotonic()
        self._lock = threading.Lock()
        self.answers: list[bool] = []

    def __call__(self, _seen: Seen) -> bool:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
            self._last = now
            refuses = self._tokens < 1
            self._tokens -= not refuses
            self.answers.append(refuses)
            return refuses


def digest(dest: Path) -> str:
    return json.loads((dest / "_SUCCESS.json").read_text())["digest"]


def chunk_keys(dest: Path) -> set[str]:
    return {path.name for path in (dest / "chunks").iterdir()}


def receipts(dest: Path) -> set[int]:
    return {int(path.name.split("-")[0]) for path in (dest / "_ingest" / "receipts").glob("*.json")}


@pytest.fixture(scope="module")
def quiet(census_index: Path, ingest: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a run that nothing troubled."""
    dest = tmp_path_factory.mktemp("quiet") / "dataset"
    ingest("run", dest, "--index", census_index, *CHUNKS, "--pool", "serial")
    return dest


@pytest.fixture
def bucket() -> Iterator[tuple[FaultProxy, dict[str, str], str]]:
    """An S3 look-alike behind a proxy, the environment in which it is found, and the URL of a DEST."""
    with fast_s3_server() as server, FaultProxy(server.endpoint_url) as proxy:
        url = server.create_bucket("pressure")
        yield proxy, {**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint_url}, f"{url}/dataset"


def digest_at(ingest: Callable[..., object], dest: str, env: dict[str, str]) -> str:
    return ingest("verify", dest, "--deep", "--json", env=env).json()["digest"]


@pytest.mark.parametrize("wish", ["1", None])
@pytest.mark.parametrize("pool", ["serial", pytest.param("ray", marks=pytest.mark.long)])
def test_a_store_that_throttles_is_heeded_and_outlasted(
    bucket: tuple[FaultProxy, dict[str, str], str],
    census_index: Path,
    ingest: Callable[..., object],
    program: Callable[..., object],
    pool: str,
    wish: str | None,
):
    """On Ray in a process of its own: the workers of the Ray that tests share know another endpoint."""
    proxy, env, dest = bucket
    run = program if pool == "ray" else ingest
    throttle = Throttle(rate=50)
    headers = {} if wish is None else {"Retry-After": wish}
    proxy.faults.append(Fault("answer", when=throttle, times=sys.maxsize, status=503, headers=headers))
    ran = run("run", dest, "--index", census_index, "-n", 1_500, "-c", 50, "--pool", pool, "-d", 2, "--json", env=env)
    answers = Counter(throttle.answers)
    assert answers[True], "nothing was refused"
    # Whoever tries again at once is refused ten times for every time that he is served.
    assert answers[True] < answers[False]
    report = ran.json()
    assert (report["complete"], report["quarantined"], report["retries"] > 0) == (True, [], True)


EXPIRED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"""


def test_credentials_that_expire_in_mid_run_stop_it_and_fresh_ones_go_on(
    bucket: tuple[FaultProxy, dict[str, str], str],
    census_index: Path,
    quiet: Path,
    ingest: Callable[..., object],
):
    proxy, env, dest = bucket
    command = ("run", dest, "--index", census_index, *CHUNKS, "--pool", "serial")
    written = 0

    def expired(seen: Seen) -> bool:
        nonlocal written
        written += seen.method == "PUT" and "/chunks/" in seen.path
        return written > 10

    proxy.faults.append(Fault("answer", when=expired, times=sys.maxsize, status=400, body=EXPIRED))
    ran = ingest(*command, env=env, code=2)
    said = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "expired" in said[0].lower()
    assert "Traceback" not in ran.err
    assert "testing" not in ran.err, "the credentials themselves are nobody's business"
    proxy.faults.clear()
    done = ingest("status", dest, "--json", env=env, code=3).json()
    again = ingest(*command, "--json", env=env).json()
    assert 0 < again["chunks_this_run"] < 60
    assert done["complete"] is False
    assert again["digest"] == digest(quiet)


def test_a_store_far_away_costs_no_more_requests_than_a_near_one(
    census_index: Path, quiet: Path, ingest: Callable[..., object]
):
    counts = []
    with fast_s3_server() as server:
        for delay_ms in (0, 80):
            reset(server.endpoint_url, delay_ms)
            dest = f"{server.create_bucket('far')}/dataset"
            ran = ingest(
                *("run", dest, "--index", census_index, *CHUNKS, "--pool", "serial", "--json"), env=server.environment
            )
            assert ran.json()["digest"] == digest(quiet)
            counts.append(requests(server.endpoint_url))
    near, far = counts
    assert far["PutObject"] == near["PutObject"]
    assert sum(far.values()) <= 1.1 * sum(near.values())


def reset(endpoint: str, delay_ms: int) -> None:
    request = urllib.request.Request(f"{endpoint}/-/reset?delay_ms={delay_ms}", method="POST")  # noqa: S310  # our own
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310  # our own


def requests(endpoint: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{endpoint}/-/stats", timeout=30) as answer:  # noqa: S310  # our own
        return json.load(answer)["requests"]


@pytest.fixture
def full_disk(
    census_index: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
) -> Callable[..., None]:
    """Run where no file may grow to the size of a chunk: what fits on the disk are plan and genes."""
    dest, whole = tmp_path / "dataset", tmp_path / "whole"

    def run(*options: object, pool: str, among: Sequence[psutil.Process] = (), env: Mapping[str, str] = {}) -> None:
        command = ["--index", census_index, "-n", 3_000, *options]
        ingest("run", whole, *command, "--pool", "serial")
        smallest = min(path.stat().st_size for path in (whole / "chunks").iterdir())
        for process in among:
            process.rlimit(resource.RLIMIT_FSIZE, (smallest - 1, smallest - 1))
        full = subprocess.run(
            [sys.executable, "-c", LIMITED, str(smallest - 1), "run", str(dest), *map(str, command), "--pool", pool],
            env={**environment, **env},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert full.returncode == 1, full.stderr
        assert len([line for line in full.stderr.splitlines() if line.startswith("error: ")]) == 1
        assert "no space left" in full.stderr
        assert "Traceback" not in full.stderr
        assert receipts(dest) == set()
        assert not any((dest / "chunks").glob("*.h5ad"))
        ingest("run", dest, "--pool", "serial")
        assert digest(dest) == digest(whole)
        assert chunk_keys(dest) == chunk_keys(whole), "half a chunk is left"

    return run


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(full_disk: Callable[..., None]):
    full_disk("-c", 600, pool="serial")


@pytest.mark.long
def test_full_disks_of_nodes_are_one_line(full_disk: Callable[..., None], environment: dict[str, str], tmp_path: Path):
    """Chunks as large as they come: what Ray writes of itself must fit."""
    open_to_all = {"RAY_AUTH_MODE": "disabled"}
    nodes = Nodes({**environment, **open_to_all}, tmp_path / "nodes.log", 1)
    try:
        env = {**open_to_all, "RAY_ADDRESS": nodes.address}
        full_disk("-c", 1_500, "--codec", "none", pool="ray", among=nodes.processes(), env=env)
    finally:
        nodes.close()


LIMITED = """
import os, resource, sys
n = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
os.execv(sys.executable, [sys.executable, "-m", "ingest", *sys.argv[2:]])
"""


class Driver:
    """A run on Ray in a process of its own, whose workers can be got at."""

    def __init__(self, environment: dict[str, str], *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ingest", *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, condition: Callable[[], object]) -> None:
        while self.process.poll() is None and not condition():
            time.sleep(0.01)
        assert self.process.poll() is None, self.process.communicate()

    def worker(self) -> psutil.Process:
        """One that has started; it waits for it."""
        found: list[psutil.Process] = []
        self.until(lambda: found.extend(self._workers()) or found)
        return found[0]

    def _workers(self) -> Iterator[psutil.Process]:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(child.cmdline()).startswith("ray::WorkerActor"):
                    yield child
            except psutil.Error:
                continue

    def ended(self) -> str:
        """What it said, having ended well."""
        _, said = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def drive(environment: dict[str, str]) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*arguments: object) -> Driver:
        drivers.append(Driver(environment, *arguments))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.process.kill()
        driver.process.communicate()


@pytest.mark.long
def test_a_frozen_worker_is_given_up_at_its_deadline(
    drive: Callable[..., Driver], census_index: Path, quiet: Path, tmp_path: Path
):
    dest = tmp_path / "dataset"
    driver = drive("run", dest, "--index", census_index, *CHUNKS, "-d", 2, "--deadline", 20)
    driver.until(lambda: receipts(dest))
    frozen = driver.worker()
    os.kill(frozen.pid, signal.SIGSTOP)
    said = driver.ended()
    assert "not done after 20 s" in said
    assert digest(dest) == digest(quiet)


@pytest.mark.long
def test_a_worker_whose_memory_ends_is_replaced_and_no_chunk_is_blamed(
    drive: Callable[..., Driver], census_index: Path, quiet: Path, tmp_path: Path
):
    dest = tmp_path / "dataset"
    driver = drive("run", dest, "--index", census_index, *CHUNKS, "-d", 1)
    driver.until(lambda: receipts(dest))
    worker = driver.worker()
    worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms,) * 2)
    driver.ended()
    assert not worker.is_running()
    assert digest(dest) == digest(quiet)


@pytest.mark.long
def test_a_node_goes_and_another_comes_in_mid_run(
    environment: dict[str, str], census_index: Path, quiet: Path, tmp_path: Path
):
    ended = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(tmp_path / "dataset"), str(census_index), *map(str, CHUNKS)],
        env={**environment, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert digest(tmp_path / "dataset") == digest(quiet)
    failures = [json.loads(path.read_text()) for path in (tmp_path / "dataset/_ingest/failures").glob("*.json")]
    assert {failure["kind"] for failure in failures} <= {"node-lost", "unavailable"}


CLUSTER = """
import os, pathlib, subprocess, sys, tempfile, time
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="r", dir="/tmp")
from ray.cluster_utils import Cluster
dest = pathlib.Path(sys.argv[1])
small = {"object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
node = cluster.add_node(num_cpus=2, **small)
cluster.wait_for_nodes()
run = [sys.executable, "-m", "ingest", "run", str(dest), "--index", *sys.argv[2:], "-d", "2"]
driver = subprocess.Popen(run, env={**os.environ, "RAY_ADDRESS": cluster.address})
try:
    n_receipts = lambda: len(list(dest.glob("_ingest/receipts/*.json")))
    while driver.poll() is None and n_receipts() < 3:
        time.sleep(0.01)
    assert driver.poll() is None, "it ended before a node was lost"
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2, **small)
    sys.exit(driver.wait(timeout=240))
finally:
    driver.kill()
    cluster.shutdown()
"""
