"""Whether the pods hold the workers that ``run.toml`` asks for: what these may take and Ray's own needs, added up."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ingest.cli.style import ByteSize
from ingest.memory import MIB
from ingest.settings import DEFAULT_MEMORY_BYTES
from ingest.testing.manifests.quantities import quantity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.testing.manifests.documents import Pod

__all__ = ["RAY_HEAD_BYTES", "RAY_NODE_BYTES", "sizing_complaints"]

RAY_NODE_BYTES = 512 * MIB
"""Raylet, agents and log monitor of a node with workers: 249 MiB of their own and shared pages, Ray 2.60, measured."""

RAY_HEAD_BYTES = 1024 * MIB
"""The same of the head, with its control service and dashboard: 676 MiB, measured."""

_DRIVER_BYTES = 1536 * MIB
"""The driver: it plans in pieces, and holds some numbers a chunk."""

_KILLS_AT = Fraction(95, 100)
"""Ray kills workers when so much of a node's memory is taken (RAY_memory_usage_threshold)."""


def sizing_complaints(
    pods: Sequence[Pod], clusters: Sequence[tuple[str, Mapping[str, Any]]], settings: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what does not fit.

    Parameters
    ----------
    settings
        ``run.toml``: ``memory``, ``cpus`` and ``workers``.
    """
    size = ByteSize().convert(settings.get("memory", DEFAULT_MEMORY_BYTES), None, None)
    cpus = int(settings.get("cpus", 1))
    for pod in pods:
        if pod.role == "head":
            yield from _head(pod)
        elif pod.role == "worker":
            yield from _node(pod, size, cpus)
    for name, cluster in clusters:
        room = sum(_workers(group.get("rayStartParams", {}), cpus) * group["maxReplicas"] for group in _groups(cluster))
        wanted = int(settings.get("workers", 1))
        if wanted > room:
            yield f"{name}: workers that are asked for: {wanted}; that its groups grow to: {room}"


def _groups(cluster: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.get("workerGroupSpecs", [])
    return found


def _workers(ray: Mapping[str, str], cpus: int) -> int:
    return int(ray.get("num-cpus", "0")) // cpus


def _node(pod: Pod, size: int, cpus: int) -> Iterator[str]:
    limits = pod.spec["containers"][0].get("resources", {}).get("limits", {})
    limit, n_workers = quantity(limits.get("memory", "0")), _workers(pod.ray, cpus)
    given, store = int(pod.ray.get("memory", "0")), _object_store(pod)
    if n_workers < 1:
        yield f"{pod.where}: has no room for a worker of {cpus} CPUs (num-cpus)"
    if quantity(limits.get("cpu", "0")) < int(pod.ray.get("num-cpus", "0")):
        yield f"{pod.where}: promises {pod.ray['num-cpus']} CPUs and has {limits.get('cpu')}"
    if given < n_workers * size:
        yield f"{pod.where}: gives {n_workers} workers {given // MIB} MiB, and each may take {size // MIB} (memory)"
    if given + store + RAY_NODE_BYTES > limit * _KILLS_AT:
        needed = (given + store + RAY_NODE_BYTES) / _KILLS_AT
        yield f"{pod.where}: needs {int(needed) // MIB} MiB for all it promises, and is limited to {int(limit) // MIB}"
    yield from _shared_memory(pod, store)


def _head(pod: Pod) -> Iterator[str]:
    limits = pod.spec["containers"][0].get("resources", {}).get("limits", {})
    needed = RAY_HEAD_BYTES + _DRIVER_BYTES + _object_store(pod)
    if quantity(limits.get("memory", "0")) * _KILLS_AT < needed:
        yield f"{pod.where}: Ray and a driver take {needed // MIB} MiB, and it is limited to {limits.get('memory')}"
    yield from _shared_memory(pod, _object_store(pod))


def _object_store(pod: Pod) -> int:
    """Return what Ray is told to share; untold it is 30 % of the memory."""
    return int(pod.ray.get("object-store-memory", 1 << 62))


def _shared_memory(pod: Pod, store: int) -> Iterator[str]:
    mounts = {m["mountPath"]: m["name"] for m in pod.spec["containers"][0].get("volumeMounts", [])}
    volumes = {volume["name"]: volume.get("emptyDir") or {} for volume in pod.spec.get("volumes", [])}
    shared = volumes.get(mounts.get("/dev/shm", ""), {})  # noqa: S108  # the pod's own
    if shared.get("medium") != "Memory" or quantity(shared.get("sizeLimit", "0")) < store:
        yield f"{pod.where}: /dev/shm does not hold its object store (object-store-memory)"
