"""Rendered manifests as data: documents, and the pods that they come to once the operator has had its way."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["Document", "Pod", "clusters", "of_kind", "pods", "render"]

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as it will be."""

    where: str
    """What it is called in complaints."""
    role: str
    """``head`` or ``worker``."""
    namespace: str | None
    """Of what makes it."""
    labels: Mapping[str, str]
    """With those that the operator adds."""
    spec: Mapping[str, Any]
    """With the container that the operator adds; the one that it makes of the first is the first's copy."""
    ray: Mapping[str, str]
    """Parameters of ``ray start``."""

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of them, those that run first, too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def variable(self, name: str) -> str | None:
        """Return an environment variable of the container that runs Ray."""
        return {each["name"]: each.get("value") for each in self.spec["containers"][0].get("env", [])}.get(name)


def render(overlay: Path) -> list[Document]:
    """Return what ``kubectl kustomize`` makes of a folder.

    Raises
    ------
    ConfigError
        Kind ``no-kubectl`` or ``bad-manifests``; the message is kubectl's.
    """
    try:
        done = subprocess.run(  # noqa: S603  # no shell, and the folder is an argument
            ["kubectl", "kustomize", str(overlay)],  # noqa: S607  # wherever it is installed
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        hint = "install it (https://kubernetes.io/docs/tasks/tools); no cluster is needed"
        raise ConfigError("kubectl renders the manifests, and is not there", kind="no-kubectl", hint=hint) from error
    if done.returncode:
        raise ConfigError(f"{overlay}: {done.stderr.strip()}", kind="bad-manifests")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents: Sequence[Document], kind: str) -> list[Document]:
    """Return the documents of one kind."""
    return [document for document in documents if document["kind"] == kind]


def clusters(documents: Sequence[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the specification of every Ray cluster, those of runs, too."""
    for document in documents:
        if document["kind"] == "RayCluster":
            yield f"RayCluster/{document['metadata']['name']}", document["spec"]
        elif document["kind"] == "RayJob":
            yield f"RayJob/{document['metadata']['name']}", document["spec"].get("rayClusterSpec", {})


def pods(documents: Sequence[Document]) -> Iterator[Pod]:
    """Yield every pod that the documents will come to."""
    for document in documents:
        for name, cluster in clusters([document]):
            yield from _pods(name, document["metadata"].get("namespace"), cluster)


def _pods(name: str, namespace: str | None, cluster: Mapping[str, Any]) -> Iterator[Pod]:
    group = cluster["headGroupSpec"]
    spec = dict(group["template"]["spec"])
    if cluster.get("enableInTreeAutoscaling"):
        spec["containers"] = [*spec["containers"], _autoscaler(spec, cluster)]
    labels = _labels(group, "head", "headgroup", name)
    yield Pod(f"{name} head", "head", namespace, labels, spec, group.get("rayStartParams", {}))
    for group in cluster.get("workerGroupSpecs", []):
        labels = _labels(group, "worker", group["groupName"], name)
        where = f"{name} {group['groupName']}"
        yield Pod(where, "worker", namespace, labels, group["template"]["spec"], group.get("rayStartParams", {}))


def _labels(group: Mapping[str, Any], role: str, group_name: str, cluster: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/is-ray-node": "yes",
        **group["template"].get("metadata", {}).get("labels", {}),
        "ray.io/node-type": role,
        "ray.io/group": group_name,
        "ray.io/cluster": cluster.partition("/")[2],
    }


def _autoscaler(head: Mapping[str, Any], cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container that the operator puts into the head's pod: its own, with what the options say on top."""
    options = cluster.get("autoscalerOptions", {})
    usual = {"cpu": "500m", "memory": "512Mi"}
    return {
        "name": "autoscaler",
        "image": options.get("image", head["containers"][0]["image"]),
        "env": options.get("env", []),
        "resources": options.get("resources", {"requests": usual, "limits": usual}),
        "securityContext": options.get("securityContext", {}),
        "volumeMounts": options.get("volumeMounts", []),
    }
