"""``ray job submit``: the command as a job of a cluster of Ray nodes, which come and go, to an S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psutil
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from ingest.settings import DataSettings
from ingest.store.open import open_store
from ingest.testing.datasets import make_dataset, write_sources
from ingest.testing.kills import Nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

N_CELLS, CELLS_PER_CHUNK = 1_500, 5
N_CHUNKS = N_CELLS // CELLS_PER_CHUNK
PATIENCE_S = 300.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Shelf:
    """A bucket with two h5ad files, an index of their cells and settings, and what a quiet run makes of them."""

    bucket: str
    variables: dict[str, str]
    digest: str

    def command(self, dest: str, *more: str) -> list[str]:
        inputs = ["--index", f"{self.bucket}/index.feather", "--config", f"{self.bucket}/run.toml"]
        return ["-m", "ingest", "run", f"{self.bucket}/{dest}", *inputs, *more]

    def n_done(self, dest: str) -> int:
        store = open_store(f"{self.bucket}/{dest}")
        try:
            return sum(1 for _ in store.list("_ingest/receipts/"))
        finally:
            store.close()


@pytest.fixture
def shelf(s3_server, ingest, tmp_path, monkeypatch):
    bucket = s3_server.create_bucket("jobs")
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    urls = []
    for file in write_sources(tmp_path / "sources", n_files=2, n_cells=N_CELLS // 2, n_genes=60):
        client.upload_file(str(file), "jobs", file.name)
        urls.append(f"{bucket}/{file.name}")
    index = tmp_path / "index.feather"
    ingest("index", "h5ad", *urls, "-o", index, env=s3_server.environment)
    quiet = make_dataset(str(tmp_path / "quiet"), index, data=DataSettings(cells_per_chunk=CELLS_PER_CHUNK))
    client.upload_file(str(index), "jobs", "index.feather")
    client.put_object(Bucket="jobs", Key="run.toml", Body=f"cells_per_chunk = {CELLS_PER_CHUNK}\n".encode())
    assert quiet.report.finished is not None
    return Shelf(bucket, s3_server.environment, quiet.report.finished.digest)


@contextmanager
def cluster(environment, folder, **options) -> Iterator[tuple[Nodes, JobSubmissionClient]]:
    nodes = Nodes({**environment, "RAY_AUTH_MODE": "disabled"}, folder / "nodes.log", jobs=True, **options)
    try:
        yield nodes, JobSubmissionClient(nodes.jobs_url)
    finally:
        nodes.close()


def submit(nodes: Nodes, shelf: Shelf, command: list[str], *, name: str, working_dir: Path | None = None) -> str:
    """Submit a job by Ray's own command; return its name."""
    carried = {"env_vars": {**shelf.variables, "RAY_JOB_STOP_WAIT_TIME_S": "600"}}
    upload = [] if working_dir is None else ["--working-dir", str(working_dir)]
    ray = Path(sys.executable).with_name("ray")
    python = sys.executable if working_dir is None else "python"
    done = subprocess.run(
        [
            *(str(ray), "job", "submit", "--address", nodes.jobs_url, "--no-wait", "--submission-id", name),
            *("--runtime-env-json", json.dumps(carried), *upload, "--", python, *command),
        ],
        env={key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return name


def until(happened: Callable[[], bool], told: Callable[[], object] = lambda: "") -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up, told()
        time.sleep(0.1)


def ended(jobs: JobSubmissionClient, job: str) -> tuple[JobStatus, list[str]]:
    until(lambda: jobs.get_job_status(job).is_terminal(), lambda: jobs.get_job_logs(job))
    return jobs.get_job_status(job), jobs.get_job_logs(job).splitlines()


def digest_of(shelf: Shelf, dest: str) -> str:
    store = open_store(f"{shelf.bucket}/{dest}")
    try:
        return json.loads(store.get("_SUCCESS.json"))["digest"]
    finally:
        store.close()


def is_frozen(process: psutil.Process) -> bool:
    """Say whether a process was stopped and not killed since; one that was may be a zombie for a while."""
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def test_a_job_outlives_a_node_and_takes_another_in(shelf, environment, tmp_path):
    """The head makes nothing. Of two others one is killed, and one stands still until the one that is added works."""
    with cluster(environment, tmp_path, n_nodes=2) as (nodes, jobs):
        job = submit(nodes, shelf, shelf.command("shaken"), name="shaken")
        until(lambda: shelf.n_done("shaken") >= N_CHUNKS // 20, lambda: jobs.get_job_logs(job))
        until(lambda: len(nodes.workers()) == 2, lambda: jobs.get_job_logs(job))
        frozen = nodes.workers()
        for worker in frozen:
            worker.suspend()
        nodes.kill_node(0.0, machine=True)
        n_before = shelf.n_done("shaken")
        until(lambda: shelf.n_done("shaken") >= n_before + N_CHUNKS // 20, lambda: jobs.get_job_logs(job))
        n_after = shelf.n_done("shaken")
        survivors = [worker for worker in frozen if is_frozen(worker)]
        for worker in survivors:
            worker.resume()
        status, log = ended(jobs, job)
    assert len(survivors) == 1
    assert n_after < N_CHUNKS, "both were seen in mid-run"
    assert status == JobStatus.SUCCEEDED, log
    assert log[-2].startswith(f"  cells {N_CELLS:,}"), "a job's log ends with the summary"
    assert len(log) < N_CHUNKS // 2, "and has no line for every chunk"
    assert digest_of(shelf, "shaken") == shelf.digest


@pytest.mark.long
def test_jobs_that_are_stopped_drained_incomplete_or_lose_their_head(shelf, environment, tmp_path):
    with cluster(environment, tmp_path) as (nodes, jobs):
        # Stopped: what Ctrl-C does.
        job = submit(nodes, shelf, shelf.command("shaken"), name="first")
        until(lambda: shelf.n_done("shaken") >= N_CHUNKS // 20, lambda: jobs.get_job_logs(job))
        jobs.stop_job(job)
        status, log = ended(jobs, job)
        n_done = shelf.n_done("shaken")
        assert status == JobStatus.STOPPED
        assert log[-1] == f"stopped: {n_done:,} of {N_CHUNKS:,} chunks done; run the same command to go on"
        assert n_done < N_CHUNKS
        # Again, and a node is called back meanwhile: nobody is to blame, nothing is even tried again.
        job = submit(nodes, shelf, shelf.command("shaken"), name="second")
        until(lambda: shelf.n_done("shaken") >= n_done + N_CHUNKS // 20, lambda: jobs.get_job_logs(job))
        n_drained = shelf.n_done("shaken")
        assert nodes.drain_node()
        status, log = ended(jobs, job)
        assert status == JobStatus.SUCCEEDED, log
        assert n_drained < N_CHUNKS, "the node was called back in mid-run"
        assert any(line.startswith(f"Resume   {n_done:,} of {N_CHUNKS:,} chunks") for line in log)
        assert not any("again" in line or "set aside" in line for line in log), log
        assert digest_of(shelf, "shaken") == shelf.digest
        # One file of two is missing.
        client = boto3.client("s3", endpoint_url=shelf.variables["AWS_ENDPOINT_URL"])
        whole = client.get_object(Bucket="jobs", Key="sample1.h5ad")["Body"].read()
        client.delete_object(Bucket="jobs", Key="sample1.h5ad")
        status, log = ended(jobs, submit(nodes, shelf, shelf.command("half"), name="half"))
        info = jobs.get_job_info("half")
        assert (status, info.driver_exit_code) == (JobStatus.FAILED, 3), log
        assert "failed with exit code 3" in info.message
        client.put_object(Bucket="jobs", Key="sample1.h5ad", Body=whole)
        # The head dies.
        job = submit(nodes, shelf, shelf.command("beheaded"), name="third")
        until(lambda: shelf.n_done("beheaded") >= N_CHUNKS // 20, lambda: jobs.get_job_logs(job))
        nodes.kill_all()
    n_done = shelf.n_done("beheaded")
    assert n_done < N_CHUNKS
    with cluster(environment, tmp_path) as (nodes, jobs):
        status, log = ended(jobs, submit(nodes, shelf, shelf.command("beheaded"), name="third"))
    assert status == JobStatus.SUCCEEDED, log
    assert digest_of(shelf, "beheaded") == shelf.digest


@pytest.mark.long
def test_a_cluster_without_the_package_is_told_apart_and_served_by_an_upload(shelf, environment, tmp_path):
    """Its Python has what the package depends on, and nothing of the package."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # of which no .pth is read: ours is one
    path = f"{python.parent}{os.pathsep}{environment['PATH']}"
    bare = {name: value for name, value in environment.items() if name != "PYTHONPATH"} | {"PATH": path}
    few = ("-n", "40")
    with cluster(bare, tmp_path, python=str(python)) as (nodes, jobs):
        outside = subprocess.run(
            [sys.executable, *shelf.command("outside", *few)],
            env={**environment, **shelf.variables, "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"},
            cwd=tmp_path,  # not where the packages are: Ray shows workers on this machine the driver's folder
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert outside.returncode == 1, outside.stderr
        assert "does not have this package" in outside.stderr
        assert "No module named 'actors'" in outside.stderr
        job = submit(nodes, shelf, shelf.command("carried", *few), name="carried", working_dir=ROOT)
        status, log = ended(jobs, job)
    assert status == JobStatus.SUCCEEDED, log
    assert log[-2].startswith("  cells 40"), log
