"""What this project asks of its manifests beyond their being valid: each rule looks at all documents and complains.

The rules follow what the pods come to, with what the operator adds. They know two things about Ray that manifests can
get wrong silently: what it needs of a node's memory beside the workers, and that a node which is ended drains for as
long as it is told, unless it is killed first.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import TYPE_CHECKING, Any

from ingest.testing.manifests.documents import clusters, of_kind, pods
from ingest.testing.manifests.placement import placement_complaints
from ingest.testing.manifests.quantities import quantity
from ingest.testing.manifests.sizing import sizing_complaints
from ingest.testing.manifests.traffic import (
    disruption_complaints,
    monitoring_complaints,
    namespace_complaints,
    network_complaints,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ingest.testing.manifests.documents import Document, Pod

    Rule = Callable[[Sequence[Document]], Iterator[str]]

__all__ = ["RULES", "complaints"]

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|\"private_key\"|"
    r"(?i:(secret|password|passwd|api_?key|auth_token)\s*[:=]\s*\S)|://[^/\s:@]+:[^/\s@]+@"
)
_JOB_NAME = re.compile(r"(?=.{1,47}$)[a-z]([-a-z0-9]*[a-z0-9])?")
_TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  # where one is, not what it is
_SIZES = ("cpu", "memory", "ephemeral-storage")
_DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
_STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
_PENDING = "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S"


def complaints(documents: Sequence[Document]) -> list[str]:
    """Return what breaks a rule, a line each, begun by the rule's name."""
    return [f"{name}: {line}" for name, rule in RULES.items() for line in rule(documents)]


def _each_container(documents: Sequence[Document]) -> Iterator[tuple[str, Pod, dict[str, Any]]]:
    for pod in pods(documents):
        for container in pod.containers:
            yield f"{pod.where}, {container['name']}", pod, container


def _settings(pod: Pod, container: Mapping[str, Any]) -> dict[str, Any]:
    """Return the security context that a container ends up with."""
    return {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}


def _not_root(documents: Sequence[Document]) -> Iterator[str]:
    for where, pod, container in _each_container(documents):
        settings = _settings(pod, container)
        if settings.get("runAsNonRoot") is not True or not settings.get("runAsUser"):
            yield f"{where}: may run as root"


def _contained(documents: Sequence[Document]) -> Iterator[str]:
    for where, pod, container in _each_container(documents):
        settings = _settings(pod, container)
        if settings.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: may write to its root file system"
        if settings.get("allowPrivilegeEscalation") is not False or settings.get("privileged"):
            yield f"{where}: may gain privileges"
        if settings.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{where}: keeps capabilities"
        if settings.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{where}: any system call is allowed (seccompProfile)"


def _no_host(documents: Sequence[Document]) -> Iterator[str]:
    for pod in pods(documents):
        yield from (f"{pod.where}: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(name))
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{pod.where}: mounts {volume['hostPath']} of its node"


def _limits(documents: Sequence[Document]) -> Iterator[str]:
    for where, _, container in _each_container(documents):
        resources = container.get("resources", {})
        asked, most = resources.get("requests", {}), resources.get("limits", {})
        yield from (f"{where}: no {name} is requested" for name in _SIZES if name not in asked)
        yield from (f"{where}: no limit of {name}" for name in _SIZES if name not in most)
        if asked.get("memory") != most.get("memory"):
            yield f"{where}: memory is promised to others ({asked.get('memory')} of {most.get('memory')} requested)"


def _scratch(documents: Sequence[Document]) -> Iterator[str]:
    for pod in pods(documents):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        for name, volume in volumes.items():
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{pod.where}: {name} may fill its node's disk"
        yield from _disk(pod)
        for container in pod.spec["containers"]:
            mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
            lost = [mount["name"] for mount in mounts.values() if mount["name"] not in volumes]
            yield from (f"{pod.where}, {container['name']}: there is no volume {name}" for name in lost)
            if "/tmp" not in mounts or mounts["/tmp"].get("readOnly"):  # noqa: S108  # the pod's own
                yield f"{pod.where}, {container['name']}: nothing to write to at /tmp"


def _disk(pod: Pod) -> Iterator[str]:
    """Hold what volumes may take against the limits of all containers: a pod that takes more than these is evicted."""
    volumes = [volume.get("emptyDir") or {} for volume in pod.spec.get("volumes", [])]
    taken = sum(quantity(each.get("sizeLimit", "0")) for each in volumes if each.get("medium") != "Memory")
    limits = [container.get("resources", {}).get("limits", {}) for container in pod.spec["containers"]]
    allowed = sum(quantity(each.get("ephemeral-storage", "0")) for each in limits)
    if taken > allowed:
        most = int(allowed) >> 20
        yield f"{pod.where}: its volumes may take {int(taken) >> 20} MiB of disk, and it is evicted at {most}"


def _images(documents: Sequence[Document]) -> Iterator[str]:
    for where, _, container in _each_container(documents):
        image = container["image"]
        name, _, digest = image.partition("@")
        _, colon, tag = name.rpartition("/")[2].partition(":")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) and (not colon or tag in ("", "latest", "nightly")):
            yield f"{where}: {image} is another image tomorrow"
    for name, cluster in clusters(documents):
        images = {pod.containers[0]["image"] for pod in pods(documents) if pod.where.startswith(name)}
        if len(images) > 1:
            yield f"{name}: driver and workers differ ({', '.join(sorted(images))})"
        if tuple(map(int, re.findall(r"\d+", cluster.get("rayVersion", "0"))[:2])) < (2, 54):
            yield f"{name}: rayVersion {cluster.get('rayVersion')} is older than 2.54"


def _no_secrets(documents: Sequence[Document]) -> Iterator[str]:
    yield from (f"Secret/{each['metadata']['name']}: is made elsewhere" for each in of_kind(documents, "Secret"))
    for where, _, container in _each_container(documents):
        for variable in container.get("env", []):
            if _SECRET_NAME.search(variable["name"]) and "value" in variable:
                yield f"{where}: {variable['name']} stands in the manifest"
    for config in of_kind(documents, "ConfigMap"):
        for key, text in config.get("data", {}).items():
            if _SECRET_TEXT.search(text):
                yield f"ConfigMap/{config['metadata']['name']}: {key} looks as if it held a credential"
    for job in of_kind(documents, "RayJob"):
        if _SECRET_TEXT.search(f"{job['spec'].get('entrypoint', '')} {job['spec'].get('runtimeEnvYAML', '')}"):
            yield f"RayJob/{job['metadata']['name']}: its command looks as if it held a credential"


def _tokens(documents: Sequence[Document]) -> Iterator[str]:
    for name, cluster in clusters(documents):
        if cluster.get("authOptions", {}).get("mode") != "token":
            yield f"{name}: whoever reaches Ray may run anything (authOptions)"
        for alpha in ("networkPolicy", "tlsOptions"):
            if alpha in cluster:
                yield f"{name}: {alpha} is refused by operators without its gate"
    for pod in pods(documents):
        if pod.variable("RAY_AUTH_MODE") not in (None, "token"):
            yield f"{pod.where}: RAY_AUTH_MODE is {pod.variable('RAY_AUTH_MODE')}"


def _accounts(documents: Sequence[Document]) -> Iterator[str]:
    accounts = {account["metadata"]["name"]: account for account in of_kind(documents, "ServiceAccount")}
    found = list(pods(documents))
    for pod in found:
        name = pod.spec.get("serviceAccountName")
        if name not in accounts:
            yield f"{pod.where}: there is no ServiceAccount {name}"
        elif accounts[name].get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount/{name}: hands its token to every pod"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.where}: every container may talk to Kubernetes"
        tokens = {volume["name"] for volume in pod.spec.get("volumes", []) if _has_token(volume)}
        for container in pod.containers:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            if container["name"] != "autoscaler" and mounted & tokens:
                yield f"{pod.where}, {container['name']}: may talk to Kubernetes"
    heads = {pod.spec.get("serviceAccountName") for pod in found if pod.role == "head"}
    for pod in found:
        if pod.role != "head" and pod.spec.get("serviceAccountName") in heads:
            yield f"{pod.where}: has the rights over pods that the operator gives the head"
    for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        yield from (f"{kind}/{each['metadata']['name']}: nobody needs rights" for each in of_kind(documents, kind))


def _has_token(volume: Mapping[str, Any]) -> bool:
    return any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", []))


def _autoscaler(documents: Sequence[Document]) -> Iterator[str]:
    for name, cluster in clusters(documents):
        options = cluster.get("autoscalerOptions", {})
        if not cluster.get("enableInTreeAutoscaling") or options.get("version") != "v2":
            yield f"{name}: the pool cannot grow (enableInTreeAutoscaling, version v2)"
        if _TOKEN_FOLDER not in {mount["mountPath"] for mount in options.get("volumeMounts", [])}:
            yield f"{name}: its autoscaler has no token to ask for pods with"
        if int({each["name"]: each.get("value") for each in options.get("env", [])}.get(_PENDING) or -1) < 0:
            yield f"{name}: pods that wait for a node outlive the wish for them ({_PENDING})"
        if cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
            yield f"{name}: workers are put beside the driver (num-cpus of the head)"
        groups = cluster.get("workerGroupSpecs", [])
        if len({group["groupName"] for group in groups}) < len(groups):
            yield f"{name}: two groups of workers have one name"
        for group in groups:
            least, now, most = (group.get(key, 0) for key in ("minReplicas", "replicas", "maxReplicas"))
            if not 0 <= least <= now <= most or most < 1:
                yield f"{name} {group['groupName']}: from {least} to {most} pods, {now} to begin with"


def _endings(documents: Sequence[Document]) -> Iterator[str]:
    for pod in pods(documents):
        grace, drain = pod.spec.get("terminationGracePeriodSeconds", 30), int(pod.variable(_DRAIN) or 30)
        if grace < drain + 5:
            yield f"{pod.where}: is killed after {grace} s, drains for {drain}"
        stop = int(pod.variable(_STOP_WAIT) or 3)
        if pod.role == "head" and drain < stop:
            yield f"{pod.where}: kills the driver after {drain} s, which is given {stop} to end"
        if pod.role == "head" and stop < 60:
            yield f"{pod.where}: a job that is stopped has {stop} s to end what it has in hand"


def _runs(documents: Sequence[Document]) -> Iterator[str]:
    for job in of_kind(documents, "RayJob"):
        where, spec = f"RayJob/{job['metadata']['name']}", job["spec"]
        if not spec.get("shutdownAfterJobFinishes") or not spec.get("ttlSecondsAfterFinished"):
            yield f"{where}: its cluster stays (shutdownAfterJobFinishes, ttlSecondsAfterFinished)"
        if not spec.get("backoffLimit"):
            yield f"{where}: a lost head ends it (backoffLimit)"
        if not spec.get("activeDeadlineSeconds"):
            yield f"{where}: nothing bounds what it may cost (activeDeadlineSeconds)"
        if spec.get("submissionMode") != "HTTPMode":
            yield f"{where}: its cluster is taken away when the connection to the log ends (submissionMode)"
        if not _JOB_NAME.fullmatch(job["metadata"]["name"]):
            yield f"{where}: a RayJob's name is a DNS label of at most 47 characters"
        yield from (f"{where}: {line}" for line in _configured(documents, job))


def _configured(documents: Sequence[Document], job: Document) -> Iterator[str]:
    """Follow ``--config`` through the mount, the volume and the ConfigMap to the file's text."""
    words = shlex.split(job["spec"].get("entrypoint", ""))
    if "--config" not in words:
        return
    folder, _, name = words[words.index("--config") + 1].rpartition("/")
    head = next(pod for pod in pods([job]) if pod.role == "head")
    mounts = {mount["mountPath"]: mount["name"] for mount in head.spec["containers"][0].get("volumeMounts", [])}
    volumes = {volume["name"]: volume.get("configMap", {}).get("name") for volume in head.spec.get("volumes", [])}
    configs = {config["metadata"]["name"]: config.get("data", {}) for config in of_kind(documents, "ConfigMap")}
    if name not in configs.get(volumes.get(mounts.get(folder, "")) or "", {}):
        yield f"there is no {folder}/{name} in its head"


def _memory(documents: Sequence[Document]) -> Iterator[str]:
    """Hold pods against the workers that the run's own settings put into them."""
    texts = [config["data"]["run.toml"] for config in of_kind(documents, "ConfigMap") if "run.toml" in config["data"]]
    settings = tomllib.loads(texts[0]) if texts else {}
    yield from sizing_complaints(list(pods(documents)), list(clusters(documents)), settings)


def _quantities(documents: Sequence[Document]) -> Iterator[str]:
    for where, _, container in _each_container(documents):
        for sizes in container.get("resources", {}).values():
            for name, text in sizes.items():
                if quantity(text) <= 0:
                    yield f"{where}: {name} {text}"


RULES: dict[str, Rule] = {
    "not-root": _not_root,
    "contained": _contained,
    "no-host": _no_host,
    "limits": _limits,
    "quantities": _quantities,
    "scratch": _scratch,
    "images": _images,
    "no-secrets": _no_secrets,
    "tokens": _tokens,
    "accounts": _accounts,
    "autoscaler": _autoscaler,
    "namespaces": namespace_complaints,
    "network": network_complaints,
    "monitoring": monitoring_complaints,
    "disruption": disruption_complaints,
    "placement": placement_complaints,
    "endings": _endings,
    "runs": _runs,
    "memory": _memory,
}
