"""Who may be put on nodes that are called back: the group ``spot`` alone, whatever taints such nodes have or lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.testing.manifests.documents import clusters, pods

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.testing.manifests.documents import Document, Pod

__all__ = ["placement_complaints"]


def placement_complaints(documents: Sequence[Document]) -> Iterator[str]:
    """Yield heads and other groups that do not keep off the nodes whose labels the group ``spot`` asks for."""
    for name, _ in clusters(documents):
        mine = [pod for pod in pods(documents) if pod.where.startswith(f"{name} ")]
        spot = [pod for pod in mine if pod.labels["ray.io/group"] == "spot"]
        labels = {label for pod in spot for label in pod.spec.get("nodeSelector", {}).items()}
        if spot and not labels:
            yield f"{name} spot: may be put on any node"
        for pod in mine:
            if pod not in spot and any(not _keeps_off(pod, key, value) for key, value in labels):
                yield f"{pod.where}: may be put on a spot node"


def _keeps_off(pod: Pod, key: str, value: str) -> bool:
    if pod.spec.get("nodeSelector", {}).get(key, value) != value:
        return True
    affinity = pod.spec.get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    absent = {"key": key, "operator": "DoesNotExist"}
    return bool(terms) and all(absent in term.get("matchExpressions", []) for term in terms)
