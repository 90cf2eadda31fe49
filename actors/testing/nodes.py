"""Several Ray nodes on this machine, for those who kill them: a process of its own, spoken to in lines.

It says its cluster's address, then answers each line ``add`` with the process id of a new node's raylet, whose death
is the node's. The cluster ends with its standard input, which is when its parent ends, however that comes about::

    python -m actors.testing.nodes 1        # CPUs of a node
    127.0.0.1:40123
    add
    31415
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["serve"]

T = TypeVar("T")

_OBJECT_STORE_BYTES = 80 * 2**20
_TRIES = 5
_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A killed node is known to be lost after seconds, a slow one is not taken for lost.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "3",
}


def serve(lines: Iterable[str], *, cpus: int) -> Iterator[str]:
    """Yield the answer to each line; the first answer comes without one.

    The head has no CPUs: whatever works, works on a node that can be killed.
    """
    os.environ.update(_SETTINGS)
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # noqa: S108 # its name leaves room for Ray's socket names
    os.environ["RAY_TMPDIR"] = folder
    from ray.cluster_utils import Cluster  # reads the environment

    small: dict[str, Any] = {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    head = {"num_cpus": 0, **small}
    cluster: Any = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        yield str(cluster.address)
        for line in lines:
            if line.strip() == "add":
                yield str(_raylet_of(_patiently(lambda: cluster.add_node(wait=False, num_cpus=cpus, **small))))
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _patiently(start: Callable[[], T]) -> T:
    """Start something of Ray's again when it has not come up in the 30 s that Ray grants it: the machine is busy."""
    for _ in range(_TRIES - 1):
        with suppress(Exception):  # a bare one is what Ray raises
            return start()
    return start()


def _raylet_of(node: Any) -> int:
    """Return the process id of a node's raylet, which Ray keeps to itself."""
    (found,) = node.all_processes["raylet"]
    return int(found.process.pid)


if __name__ == "__main__":
    for answer in serve(sys.stdin, cpus=int(sys.argv[1])):
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
