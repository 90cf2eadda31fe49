"""Connecting to Ray: the cluster that RAY_ADDRESS names, else a small local Ray that ends with us."""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["OLDEST_RAY", "Connection", "cluster_address", "connect", "require_safe_ray"]

OLDEST_RAY = (2, 54)
"""Older ones have known holes; a cluster is reached over a network."""

_OBJECT_STORE_BYTES = 80 * 2**20  # near Ray's least of 75 MiB: only small records travel
_KNOCK_S = 3.0


@dataclass(frozen=True, slots=True)
class Connection:
    """The Ray this process is connected to."""

    address: str
    """Of its control service, ``host:port``."""
    is_local: bool
    """Whether it was started for this run and ends with it."""
    n_cpus: float
    """CPUs that the cluster has now; it may grow."""
    dashboard_url: str | None = None


def cluster_address() -> str | None:
    """Return what RAY_ADDRESS names (Ray jobs set it too), None when a local Ray is to be started."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def require_safe_ray(version: str) -> None:
    """Refuse Ray below 2.54, to be called before a cluster is joined.

    Raises
    ------
    ConfigError
        Kind ``ray-too-old``.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_RAY:
        raise ConfigError(
            f"Ray {version} has known security holes and is not used on clusters",
            kind="ray-too-old",
            hint=f"install ray>={'.'.join(map(str, OLDEST_RAY))} here and on the cluster",
        )


_AS_A_JOB = "run it on a node, or as a job: ray job submit --address http://HEAD:8265 -- python -m ingest …"

_NO_NODE_HERE = "No node info found matching attributes"
"""What Ray says after a minute where it finds the cluster, and no raylet of it on this machine."""


@contextmanager
def connect(
    *,
    workers: int,
    cpus_per_worker: float = 1,
    dashboard: bool = False,
    worker_output: bool = False,
    patience_s: float = 30.0,
) -> Iterator[Connection]:
    """Connect to Ray for the length of a ``with`` block, and undo at its end what was done here.

    A Ray that this process is connected to already is used and left alone. Handlers of SIGINT and SIGTERM stay those
    of the caller: Ray puts its own in place, which end the process where a run wants to drain.

    Parameters
    ----------
    workers, cpus_per_worker
        How many actors a local Ray must have room for; a cluster is as large as it is.
    dashboard
        Start a local Ray's dashboard.
    worker_output
        Print what workers and the raylet print, to stdout and stderr as Ray does.
    patience_s
        Seconds to wait for a cluster that does not answer.

    Raises
    ------
    ConfigError
        Kind ``ray-unreachable``, ``ray-too-old`` or, for a local Ray, ``ray-start``.
    """
    if _is_connected():
        yield _describe(is_local=False)
        return
    address = cluster_address()
    with ExitStack() as stack:
        quiet = {"logging_level": logging.WARNING if worker_output else logging.ERROR, "log_to_driver": worker_output}
        if address is not None:
            _join(stack, address, quiet, patience_s)
        else:
            _start_local(stack, math.ceil(workers * cpus_per_worker), quiet, dashboard=dashboard)
        yield _describe(is_local=address is None)


def _is_connected() -> bool:
    ray = sys.modules.get("ray")  # not imported for the question: its core reads the environment at that moment
    return ray is not None and bool(ray.is_initialized())


def _join(stack: ExitStack, address: str, quiet: Mapping[str, Any], patience_s: float) -> None:
    stack.enter_context(_environment({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}))
    import ray  # reads the environment

    require_safe_ray(ray.__version__)
    _knock(address, patience_s)
    _mute(stack, quiet)
    try:
        with _signal_handlers_kept():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if _NO_NODE_HERE in str(error):
            raise _elsewhere(address) from error
        raise _unreachable(address, _first_line(error)) from error
    stack.callback(ray.shutdown)


def _knock(address: str, patience_s: float) -> None:
    """Make sure that somebody listens: Ray itself tries for two minutes, deaf to signals.

    Raises ``ConfigError`` of kind ``ray-unreachable``.
    """
    if address.startswith("ray://"):
        raise ConfigError(
            f"RAY_ADDRESS={address}: Ray's client, by which actors are not reached as this needs it",
            kind="ray-unreachable",
            hint=_AS_A_JOB,
        )
    match = re.fullmatch(r"\[?(?P<host>[^/\]]+)\]?:(?P<port>\d+)", address)
    if match is None:
        if address == "auto":  # Ray looks for one on this machine, and is quick about it
            return
        raise _unreachable(address, "not of the form host:port")
    give_up = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection((match["host"], int(match["port"])), timeout=_KNOCK_S).close()
        except OSError as error:
            if time.monotonic() + _KNOCK_S > give_up:
                raise _unreachable(address, str(error)) from error
            time.sleep(min(1.0, _KNOCK_S))
        else:
            return


def _elsewhere(address: str) -> ConfigError:
    return ConfigError(
        f"RAY_ADDRESS={address}: this machine is no node of that cluster, which a driver's has to be",
        kind="ray-unreachable",
        hint=_AS_A_JOB,
    )


def _unreachable(address: str, reason: str) -> ConfigError:
    proxied = any(os.environ.get(name) for name in ("http_proxy", "grpc_proxy", "HTTP_PROXY", "GRPC_PROXY"))
    hint = "check RAY_ADDRESS (host:6379 of the head node), or unset it to run on this machine"
    if proxied:
        hint += "; a proxy is set, so no_proxy must name the head node"
    return ConfigError(f"no Ray cluster at RAY_ADDRESS={address}: {reason}", kind="ray-unreachable", hint=hint)


def _start_local(stack: ExitStack, cpus: int, quiet: Mapping[str, Any], *, dashboard: bool) -> None:
    # The dashboard draws from what is collected; collecting costs some per cent of a core, and so is off without it.
    uncollected = {} if dashboard else {"RAY_enable_metrics_collection": "0"}
    stack.enter_context(_environment({**_local_defaults(), **uncollected}))
    import ray  # reads the environment

    folder = _own_folder(stack)
    _mute(stack, quiet)
    try:
        with _signal_handlers_kept():
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=dashboard,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=folder,
                **quiet,
            )
    except Exception as error:  # a node that does not come up in time is no more than an Exception to Ray
        raise ConfigError(
            f"no local Ray can be started: {_first_line(error)}",
            kind="ray-start",
            hint="set RAY_TMPDIR to a writable folder with a short name, or RAY_ADDRESS to a running cluster",
        ) from error
    stack.callback(ray.shutdown)


def _local_defaults() -> dict[str, str]:
    """Return the environment of a local Ray, where the user has not set it otherwise."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_event_stats": "0",
        # Ray's threads take malloc's arenas before a worker can ask for fewer: they cost one 250 MB, measured. And with
        # huge pages two workers at once took 34 ns of CPU for a count, without them 41.
        "MALLOC_ARENA_MAX": "1",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        # Its ports are open to other users of this machine. A token in the environment needs no file under HOME.
        "RAY_AUTH_TOKEN": _token(),
    }
    # Ray's core reads its settings when it is imported: afterwards this one would reach its children only, who would
    # then refuse us. Ray itself turns tokens on for a local cluster when nobody says otherwise.
    return defaults if "ray" in sys.modules else {"RAY_AUTH_MODE": "token", **defaults}


@functools.cache
def _token() -> str:
    """Return this process's token; Ray's core reads it once, so it is the same for a second connection."""
    return secrets.token_hex(32)


def _own_folder(stack: ExitStack) -> str | None:
    """Return None where Ray's usual session folder can be written, else a new one that goes with the block."""
    usual = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray"  # noqa: S108 # Ray's own choice, asked about only
    if os.access(usual if usual.exists() else usual.parent, os.W_OK | os.X_OK):
        return None
    folder = tempfile.mkdtemp(prefix="ray-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set those variables that are not set; at the end remove them, and what Ray set for itself meanwhile."""
    before = set(os.environ)
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            if name in missing or name.startswith("RAY_") or name == "PYTHONBREAKPOINT":
                del os.environ[name]


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put the caller's handlers back: `ray.init` replaces them (its SIGTERM one drains for up to 30 s, then exits)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mute(stack: ExitStack, quiet: Mapping[str, Any]) -> None:
    """Keep the raylet's messages from stdout, which is for results, until Ray is shut down.

    Ray 2.60 prints them there whatever ``log_to_driver`` says; this switch is all there is.
    """
    if not quiet["log_to_driver"]:
        stack.enter_context(_worker_logs_disabled())


@contextmanager
def _worker_logs_disabled() -> Iterator[None]:
    from ray._private import worker  # as late as the others

    switch = "_worker_logs_enabled"
    before = getattr(worker, switch, None)
    if before is not None:
        setattr(worker, switch, False)
    try:
        yield
    finally:
        if before is not None:
            setattr(worker, switch, before)


def _describe(*, is_local: bool) -> Connection:
    import ray  # as late as the others

    context: Any = ray.get_runtime_context()
    resources: Any = ray.cluster_resources  # Ray leaves it untyped
    url = _dashboard_url()
    return Connection(str(context.gcs_address), is_local, float(resources().get("CPU", 0.0)), url)


def _dashboard_url() -> str | None:
    from ray._private import worker  # the public way to ask is what ray.init returned

    url = getattr(worker, "get_dashboard_url", lambda: None)()
    return f"http://{url}" if url else None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
