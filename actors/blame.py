"""Who is to blame for a unit that no worker reported on: Ray's errors in the words of the pool."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayActorError, RayError

from ingest.errors import VersionMismatchError
from ingest.pool import Lost

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.worker import WorkerPlace
    from ingest.pool import UnitTask

__all__ = [
    "Verdict",
    "any_node_is_alive",
    "draining_nodes",
    "judge",
    "lost_to_deadline",
    "node_is_alive",
    "other_build",
]

# Ray 2.60 keeps the reason of a death in its protocol and gives Python only the sentence made of it.
_NODE_DIED = "its node has died"
_MEMORY_MONITOR = "NODE_OUT_OF_MEMORY"
_EXIT = re.compile(
    r"Worker exit type: (?P<type>\w+) Worker exit detail: (?P<detail>.*?)(?: Some common causes|$)", re.DOTALL
)
_CREATION = re.compile(r"error raised in its creation task.*?\bip=(?P<ip>[^,)\s]+)", re.DOTALL)
_RAISED = re.compile(r"^\s*(?:\w+\.)*(?P<name>[A-Za-z]\w*(?:Error|Exception|Exit|Interrupt))(?::|$)", re.MULTILINE)
_OF_ANOTHER_BUILD = ("ImportError", "ModuleNotFoundError", "AttributeError", "TypeError")
_REASON = re.compile(r"The actor (?:is dead|died) because .*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a worker is gone, apart from the unit it held."""

    blame: Literal["unit", "infrastructure"]
    kind: str
    message: str

    def lost(self, task: UnitTask) -> Lost:
        """Return the event for the unit that went with the worker."""
        return Lost(task, self.blame, self.kind, self.message)


def judge(error: RayError, place: WorkerPlace | None, is_node_alive: Callable[[str], bool]) -> Verdict:
    """Say what `error` means for the worker at `place` (None: it had not started yet)."""
    where = "a starting worker" if place is None else f"worker {place.pid} on {place.host}"
    text = str(error)
    if isinstance(error, OutOfMemoryError) or _MEMORY_MONITOR in text:
        return Verdict("unit", "out-of-memory", f"{where} was ended because its node ran out of memory")
    node_lost = isinstance(error, NodeDiedError) or _NODE_DIED in text
    if node_lost or (place is not None and not is_node_alive(place.node_id)):
        return Verdict("infrastructure", "node-lost", f"{where} went with its node")
    if isinstance(error, RayActorError) and not isinstance(error, ActorUnavailableError):
        return Verdict("unit", "worker-died", f"{where} died: {_reason(text)}")
    return Verdict("infrastructure", "unavailable", f"{where} cannot be reached: {_reason(text)}")


def other_build(error: RayError) -> VersionMismatchError | None:
    """Return what it means that an actor could not even be made: its node lacks this package, or has another one.

    What is missing there, or takes other arguments, says so by its error. None for any other death, and for errors that
    pass: a file system that does not answer for a moment must not end a run.
    """
    match = _CREATION.search(str(error))
    raised = [found["name"] for found in _RAISED.finditer(str(error))]
    if match is None or not raised or raised[-1] not in _OF_ANOTHER_BUILD:
        return None
    cause = str(error).strip().splitlines()[-1].strip()[:500]
    return VersionMismatchError(
        f"the node {match['ip']} does not have this package, or another version of it ({cause})",
        hint="use an image that has it, or bring it along: `ray job submit --working-dir .` in a clone",
    )


def lost_to_deadline(task: UnitTask, place: WorkerPlace, deadline_s: float) -> Lost:
    """Return the event for a unit whose worker was killed for being late."""
    message = f"worker {place.pid} on {place.host} was killed: not done after {deadline_s:g} s"
    return Lost(task, "unit", "deadline", message)


def node_is_alive(node_id: str) -> bool:
    """Whether the cluster still counts `node_id` among its living; True when it cannot say."""
    try:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        return any(node["NodeID"] == node_id and node["Alive"] for node in nodes)
    except (RayError, RuntimeError, OSError):
        return True


def any_node_is_alive() -> bool:
    """Whether the cluster counts any node among its living; True when it cannot say."""
    try:
        return any(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    except (RayError, RuntimeError, OSError):
        return True


def draining_nodes() -> frozenset[str]:
    """Return the nodes that are about to go: a spot machine called back, a pod that ends, a cluster that shrinks.

    Ray 2.60 has no public way to ask; its own libraries ask here. Where it cannot say, none is.
    """
    try:
        return frozenset(ray._private.state.state.get_draining_nodes())
    except (AttributeError, RayError, RuntimeError, OSError):
        return frozenset()


def _reason(text: str) -> str:
    """Return the one sentence of `text` that differs between deaths."""
    if match := _EXIT.search(text):
        return f"{match['type']}, {match['detail'].strip()}"
    if match := _REASON.search(text):
        text = match[0]
    return " ".join(text.split())[:500]
