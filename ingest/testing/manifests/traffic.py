"""Who may reach whom, who may be moved, whom Prometheus asks: rules about what selects pods by their labels."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from ingest.testing.manifests.documents import of_kind, pods

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.testing.manifests.documents import Document, Pod

__all__ = ["disruption_complaints", "monitoring_complaints", "namespace_complaints", "network_complaints", "selects"]

_DASHBOARD = 8265
_METADATA = ipaddress.ip_address("169.254.169.254")
_OF_NO_NAMESPACE = frozenset({"ClusterRole", "ClusterRoleBinding", "PersistentVolume", "PriorityClass", "StorageClass"})


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector of labels, without expressions, selects."""
    if "matchExpressions" in selector:
        raise ValueError(f"a selector with expressions is not understood here: {selector}")
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def namespace_complaints(documents: Sequence[Document]) -> Iterator[str]:
    """Yield what does not lie where the pods do: it selects none of them, and none finds it."""
    theirs = {pod.namespace for pod in pods(documents)}
    for document in documents:
        if document["kind"] in _OF_NO_NAMESPACE:
            continue
        where, metadata = f"{document['kind']}/{document['metadata']['name']}", document["metadata"]
        namespace = metadata["name"] if document["kind"] == "Namespace" else metadata.get("namespace")
        if namespace is None:
            yield f"{where}: lies in whichever namespace is the current one"
        elif theirs - {namespace}:
            yield f"{where}: {namespace} is not where the pods are ({', '.join(sorted(map(str, theirs)))})"


def network_complaints(documents: Sequence[Document]) -> Iterator[str]:
    """Yield pods that anybody may reach or that may reach anything, and policies that are none."""
    policies = of_kind(documents, "NetworkPolicy")
    for pod in pods(documents):
        mine = [policy for policy in policies if selects(policy["spec"]["podSelector"], pod.labels)]
        for direction in ("Ingress", "Egress"):
            if not any(direction in policy["spec"].get("policyTypes", []) for policy in mine):
                yield f"{pod.where}: any {direction.lower()} is allowed"
        if pod.role == "head" and mine and _DASHBOARD not in _let_in_from_outside(mine):
            yield f"{pod.where}: the operator cannot submit a job to it, nor ask how one is ({_DASHBOARD})"
    for policy in policies:
        where, spec = f"NetworkPolicy/{policy['metadata']['name']}", policy["spec"]
        if not any(selects(spec["podSelector"], pod.labels) for pod in pods(documents)):
            yield f"{where}: selects no pod"
        if any(not rule.get("from") for rule in spec.get("ingress", [])):
            yield f"{where}: lets everybody in"
        for rule in spec.get("egress", []):
            ports = {(port.get("protocol"), port.get("port")) for port in rule.get("ports", [])}
            if not rule.get("to") and ports != {("TCP", 6443)}:
                yield f"{where}: lets everything out"
            for peer in rule.get("to", []):
                if "ipBlock" in peer and _reaches_metadata(peer["ipBlock"]):
                    yield f"{where}: the node's own credentials are in reach"


def _reaches_metadata(block: Mapping[str, Any]) -> bool:
    """Whether a block has the metadata server among others; alone it is meant, as GKE's workload identity needs it."""
    reached = ipaddress.ip_network(block["cidr"])
    excepted = [ipaddress.ip_network(each) for each in block.get("except", [])]
    return reached.num_addresses > 1 and _METADATA in reached and not any(_METADATA in each for each in excepted)


def disruption_complaints(documents: Sequence[Document]) -> Iterator[str]:
    """Yield heads that may be moved, and others that may not, or no longer need to be kept."""
    budgets = [budget["spec"] for budget in of_kind(documents, "PodDisruptionBudget")]
    for pod in pods(documents):
        mine = [budget for budget in budgets if selects(budget["selector"], pod.labels)]
        if pod.role == "head" and not any(budget.get("minAvailable") == 1 for budget in mine):
            yield f"{pod.where}: may be moved in mid-run (minAvailable: 1)"
        if any(budget.get("unhealthyPodEvictionPolicy") != "AlwaysAllow" for budget in mine):
            yield f"{pod.where}: holds up the draining of its node though it is not up (unhealthyPodEvictionPolicy)"
        if pod.role != "head" and mine:
            yield f"{pod.where}: holds up the draining of its node"


def monitoring_complaints(documents: Sequence[Document]) -> Iterator[str]:
    """Yield monitors that find no pod, ask at a port that has no name, or are shut out."""
    policies = of_kind(documents, "NetworkPolicy")
    for monitor in of_kind(documents, "PodMonitor"):
        where, spec = f"PodMonitor/{monitor['metadata']['name']}", monitor["spec"]
        here = [pod for pod in pods(documents) if pod.namespace == monitor["metadata"].get("namespace")]
        found = [pod for pod in here if selects(spec["selector"], pod.labels)]
        if not found:
            yield f"{where}: selects no pod"
        for endpoint in spec["podMetricsEndpoints"]:
            having = [pod for pod in found if endpoint["port"] in _named_ports(pod)]
            if found and not having:
                yield f"{where}: no pod has a port {endpoint['port']}"
            for pod in having:
                mine = [policy for policy in policies if selects(policy["spec"]["podSelector"], pod.labels)]
                if _named_ports(pod)[endpoint["port"]] not in _let_in_from_outside(mine):
                    yield f"{where}: {endpoint['port']} of {pod.where} is out of its reach"


def _named_ports(pod: Pod) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for each in pod.containers for port in each.get("ports", [])}


def _let_in_from_outside(policies: Sequence[Document]) -> set[int]:
    """Return the ports that some other namespace reaches."""
    rules = [rule for policy in policies for rule in policy["spec"].get("ingress", [])]
    open_to_others = [rule for rule in rules if any("namespaceSelector" in peer for peer in rule.get("from", []))]
    return {port["port"] for rule in open_to_others for port in rule.get("ports", [])}
