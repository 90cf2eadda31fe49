"""Several Ray nodes on this machine, for those who kill them: a process of its own, spoken to in lines.

It says its cluster's address (with ``jobs`` also that of its job server), then answers each line ``add`` with the
process id of a new node's raylet, whose death is the node's. ``drain`` with that number has the node go in an orderly
way, as one that is called back. The cluster ends with its standard input, which is when its parent ends, however that
comes about::

    python -m actors.testing.nodes 1        # CPUs of a node
    127.0.0.1:40123
    add spot=1
    31415
    drain 31415
    True
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["serve"]

_OBJECT_STORE_BYTES = 80 * 2**20
_PATIENCE_S = 300.0
_CALLED_BACK_S = 60.0
_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A killed node is known to be lost after seconds, a slow one is not taken for lost.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "3",
}


def serve(lines: Iterable[str], *, cpus: int, jobs: bool = False) -> Iterator[str]:
    """Yield the answer to each line; the first answer comes without one.

    The head has no CPUs: whatever works, works on a node that can be killed.
    """
    os.environ.update(_SETTINGS)
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # its name leaves room for Ray's socket names
    os.environ["RAY_TMPDIR"] = folder
    from ray.cluster_utils import Cluster  # reads the environment

    small: dict[str, Any] = {"object_store_memory": _OBJECT_STORE_BYTES, "dashboard_agent_listen_port": 0}
    head = {"num_cpus": 0, "include_dashboard": jobs, "dashboard_port": 0, **small}
    with _patience():
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    nodes: dict[str, str] = {}
    try:
        yield f"{cluster.address} http://{cluster.webui_url}" if jobs else str(cluster.address)
        for line in lines:
            match line.split():
                case ["add", *resources]:
                    own = {name: float(amount) for name, amount in (text.split("=") for text in resources)}
                    with _patience():
                        node = cluster.add_node(
                            wait=False,
                            num_cpus=cpus,
                            resources=own,
                            include_dashboard=False,
                            temp_dir=_own_folder(folder),
                            **small,
                        )
                    raylet = _raylet_of(node)
                    threading.Thread(target=raylet.wait, daemon=True).start()
                    nodes[str(raylet.pid)] = str(node.node_id)
                    yield str(raylet.pid)
                case ["drain", pid]:
                    yield str(_drain(cluster, nodes[pid]))
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _patience() -> Iterator[None]:
    """Let Ray wait longer than its 30 s for a node to come up: where that is slow, the machine is busy."""
    from ray._private import services  # the limit is a number in the middle of a function

    ask: Callable[..., Any] = services.get_node

    def ask_again(*arguments: Any) -> Any:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    with mock.patch.object(services, "get_node", ask_again):
        yield


def _own_folder(folder: str) -> str:
    """Return a folder for a node, as another machine has: two that share one remove each other's uploads."""
    return tempfile.mkdtemp(prefix="n", dir=folder)


def _drain(cluster: Any, node_id: str) -> bool:
    """Tell a node that it is called back in a minute, as its own handler of SIGTERM does."""
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    client: Any = vars(_raylet)["GcsClient"](address=cluster.address)  # compiled, as the other is made: no types
    accepted, _ = client.drain_node(
        node_id,
        vars(autoscaler_pb2)["DrainNodeReason"].Value("DRAIN_NODE_REASON_PREEMPTION"),
        "called back",
        int((time.time() + _CALLED_BACK_S) * 1000),
    )
    return bool(accepted)


def _raylet_of(node: Any) -> Any:
    """Return a node's raylet, a ``Popen`` that Ray keeps to itself.

    Whoever killed it has it waited for: workers look for its process id, and where that is still a zombie's they live
    on for ever.
    """
    (found,) = node.all_processes["raylet"]
    return found.process


if __name__ == "__main__":
    for answer in serve(sys.stdin, cpus=int(sys.argv[1]), jobs="jobs" in sys.argv[2:]):
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
