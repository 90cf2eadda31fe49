from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from actors.cluster import cluster_address, connect, require_safe_ray
from ingest.errors import ConfigError
from ingest.testing.pool_conformance import eventually
from ingest.testing.scripted_worker import Journal


@pytest.mark.parametrize(
    ("value", "address"), [("", None), ("local", None), (" auto ", "auto"), ("head:6379", "head:6379")]
)
def test_which_cluster(monkeypatch, value, address):
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert cluster_address() == address


@pytest.mark.parametrize("version", ["2.53.9", "2.9.0", "1.13.0"])
def test_ray_with_known_holes_is_refused(version):
    with pytest.raises(ConfigError, match=version) as caught:
        require_safe_ray(version)
    assert caught.value.kind == "ray-too-old"
    assert "2.54" in (caught.value.hint or "")


@pytest.mark.parametrize("version", ["2.54.0", "2.60.0", "3.0.0.dev0"])
def test_newer_ray_is_welcome(version):
    require_safe_ray(version)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(program, env, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:6379", "http://127.0.0.1:8265", "head"])
def test_a_cluster_that_is_not_there_is_told_at_once(address, monkeypatch):
    monkeypatch.setattr("actors.cluster._is_connected", lambda: False)  # to that of the tests beside
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=free_port()))
    with (
        pytest.raises(ConfigError, match="no Ray cluster at RAY_ADDRESS=") as caught,
        connect(workers=1, patience_s=0.1),
    ):
        pass
    assert caught.value.kind == "ray-unreachable"
    assert "check RAY_ADDRESS" in caught.value.hint


def test_a_machine_that_is_no_node_is_told_to_submit_a_job(monkeypatch):
    """As Ray says it where it finds the cluster, but no raylet here; this machine has all nodes of its clusters."""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr("actors.cluster._is_connected", lambda: False)
    monkeypatch.setattr("actors.cluster._knock", lambda *_: None)

    def init(**_):
        raise RuntimeError("No node info found matching attributes: '' when trying to resolve node to connect to.")

    monkeypatch.setattr("ray.init", init)
    with (
        pytest.raises(ConfigError, match="RAY_ADDRESS=head:6379: this machine is no node") as caught,
        connect(workers=1),
    ):
        pass
    assert "ray job submit" in caught.value.hint


def test_rays_client_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("actors.cluster._is_connected", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigError, match="RAY_ADDRESS=ray://head:10001: Ray's client") as caught, connect(workers=1):
        pass
    assert (caught.value.kind, "ray job submit" in caught.value.hint) == ("ray-unreachable", True)


def test_the_local_ray_is_small_and_its_traces_go(local_ray):
    assert local_ray.is_local
    assert local_ray.n_cpus >= 4
    assert local_ray.dashboard_url is None


def test_a_connection_made_by_the_caller_is_used_and_left(local_ray):
    import ray

    with connect(workers=1) as inner:
        assert not inner.is_local
        assert inner.address == local_ray.address
    assert ray.is_initialized()


DRIVER = """
    import os, signal, sys
    from actors.cluster import connect
    folder = sys.argv[1]
    asked = []
    def stop(*_):
        asked.append(1)
        if pools:
            pools[0].stop_soon()
    pools = []
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    before = dict(os.environ)
    with connect(workers=2) as connection:
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is stop
        from actors.pool import RayPool
        from ingest.testing.pool_conformance import drive, tasks_of
        from ingest.testing.scripted_worker import ScriptedFactory, Step
        factory = ScriptedFactory(folder, {0: (Step("gate"),), 3: (Step("gate"),)})
        pool = RayPool(factory, 2, num_cpus=1)
        pools.append(pool)
        for event in drive(pool, tasks_of(range(6), per_unit=3)):
            print(event.outcome.done, event.outcome.undone)
        print("asked", len(asked))
        pool.close()
    assert {k: v for k, v in os.environ.items() if k.startswith("RAY_")} == {
        k: v for k, v in before.items() if k.startswith("RAY_")}
    """


@pytest.mark.parametrize("how", ["ctrl-c", pytest.param("killed", marks=pytest.mark.long)])
def test_signals(tmp_path, how):
    """Ctrl-C in a terminal goes to driver, raylet and workers alike; the run must drain all the same."""
    journal = Journal(str(tmp_path))
    home = tmp_path / "home"
    home.mkdir()
    driver = run(DRIVER.replace("sys.argv[1]", repr(str(tmp_path))), {"HOME": str(home)}, start_new_session=True)
    eventually(lambda: {entry.chunk for entry in journal.entries() if entry.what == "begin"} == {0, 3})
    workers = {entry.pid for entry in journal.entries()}
    if how == "killed":
        driver.kill()
        driver.communicate()
        eventually(lambda: not any(_exists(pid) for pid in workers))
        return
    for pid in workers:  # as if Ray had left them in the terminal's foreground group
        os.kill(pid, signal.SIGINT)
    os.killpg(driver.pid, signal.SIGINT)
    eventually(lambda: journal.count("stop") == 2)
    journal.open(0)
    journal.open(3)
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert sorted(out.splitlines()) == ["(0,) (1, 2)", "(3,) (4, 5)", "asked 1"]
    assert err == ""
    assert list(home.iterdir()) == []


def _exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_unusable_session_folder_is_replaced(tmp_path, monkeypatch):
    from contextlib import ExitStack

    from actors import cluster

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(cluster.os, "access", lambda *_: False)
    with ExitStack() as stack:
        folder = cluster._own_folder(stack)
        assert folder is not None
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("dashboard", "said", "collected"), [(False, None, "0"), (True, None, None), (False, "1", "1"), (True, "0", "0")]
)
def test_a_local_ray_collects_metrics_for_its_dashboard_or_when_asked(monkeypatch, dashboard, said, collected):
    import ray

    name, seen = "RAY_enable_metrics_collection", []
    monkeypatch.delenv(name, raising=False)
    if said is not None:
        monkeypatch.setenv(name, said)
    monkeypatch.setattr("actors.cluster._is_connected", lambda: False)
    monkeypatch.setattr("actors.cluster._describe", lambda **_: None)
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(os.environ.get(name)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connect(workers=1, dashboard=dashboard):
        pass
    assert seen == [collected]
    assert os.environ.get(name) == said


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out during startup.\nMore"), RuntimeError("no"), OSError("full")]
)
def test_a_ray_that_does_not_start_is_a_line_whatever_it_raises(monkeypatch, error):
    """Ray 2.60 raises a bare Exception where a node takes longer than 30 s: there is no fast way to be that slow."""
    import ray

    def fail(**_):
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="no local Ray can be started") as caught, connect(workers=1):
        pass
    assert caught.value.kind == "ray-start"
    assert "\n" not in str(caught.value)
