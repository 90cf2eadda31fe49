"""The manifests are what Kubernetes and KubeRay take, and keep every rule; and every rule would notice.

Rules are tried on `rendered/`, which needs no kubectl; that it is what kubectl makes of `k8s/` is a test of its own
(``kubectl kustomize k8s/overlays/aws >tests/k8s/rendered/aws.yaml`` renews a file).
"""

from __future__ import annotations

import copy
import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

import ingest
from ingest.cli.config_file import read_settings
from ingest.cli.run import run
from ingest.errors import ConfigError
from ingest.memory import plan_memory
from ingest.profile import Profile
from ingest.store.url import parse_store_url
from ingest.testing.manifests import __main__ as command
from ingest.testing.manifests.documents import clusters, of_kind, pods, render
from ingest.testing.manifests.policy import RULES, complaints
from ingest.testing.manifests.quantities import quantity
from ingest.testing.manifests.schemas import SCHEMAS, invalid, schemas_of
from ingest.testing.manifests.sizing import RAY_NODE_BYTES

ROOT = Path(ingest.__file__).parent.parent
OVERLAYS = [*("local", "aws", "gcp"), *("local/standing", "aws/standing", "gcp/standing")]
CRDS = sorted((ROOT.parent / "shared" / "k8s").glob("*.crd.yaml"))
NODE = ("spec", "rayClusterSpec", "headGroupSpec")
HEAD = (*NODE, "template", "spec")
ON_DEMAND = ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec")
WORKER = ("spec", "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec")
RAY = ("containers", 0)

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="renders by kubectl")


def rendered(overlay):
    text = (Path(__file__).parent / "rendered" / f"{overlay.replace('/', '-')}.yaml").read_text("utf-8")
    return list(yaml.load_all(text, yaml.CSafeLoader))


AWS = rendered("aws")
GCP = rendered("gcp")
MONITOR = yaml.safe_load((ROOT / "k8s" / "monitoring" / "pods.yaml").read_text("utf-8"))
MONITOR["metadata"]["namespace"] = "cell-ingest"  # as the component gives it


def document(documents, kind, name=None):
    return next(each for each in of_kind(documents, kind) if name in (None, each["metadata"]["name"]))


def changed(kind, path, value, name=None, of=AWS):
    """Return the run's manifests, and its monitor, with one thing changed; ``...`` takes it away."""
    documents = copy.deepcopy([*of, MONITOR])
    at = document(documents, kind, name)
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return documents


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_tested_is_what_kubectl_renders(overlay):
    assert render(ROOT / "k8s" / "overlays" / overlay) == rendered(overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_valid_and_keep_the_rules(overlay):
    documents = rendered(overlay)
    assert [line for each in documents for line in invalid(each)] == []
    assert complaints(documents) == []
    kinds = {each["kind"] for each in documents}
    assert ("RayJob" in kinds) is ("RayCluster" not in kinds) is ("standing" not in overlay)


UNKNOWN = [
    ("RayJob", ("spec", "backOffLimit"), 3),
    ("RayJob", ("spec", "rayClusterSpec", "authOptions", "mode"), "none"),
    ("RayJob", ("spec", "rayClusterSpec", "authOptions", "Mode"), "token"),
    ("RayJob", (*NODE, "rayStartParams", "num-cpus"), 0),
    ("RayJob", (*HEAD, "terminationGracePeriod"), 180),
    ("RayJob", (*HEAD, *RAY, "securityContext", "readOnlyRootFileSystem"), True),
    ("RayJob", (*WORKER, *RAY, "resources", "limits"), ["cpu"]),
    ("RayJob", (*WORKER, "containers"), ...),
    ("RayJob", (*WORKER, "tolerations", 0, "operater"), "Equal"),
    ("RayJob", ("spec", "backoffLimit"), "3"),
    ("RayJob", ("apiVersion",), "ray.io/v2"),
    ("RayJob", ("spec", "managedBy"), "somebody"),
    ("RayJob", ("spec", "deletionStrategy"), {"onSuccess": {"policy": "DeleteSelf"}}),
    ("NetworkPolicy", ("spec", "egres"), []),
    ("NetworkPolicy", ("spec", "podSelector", "matchLabel"), {}),
    ("PodDisruptionBudget", ("spec", "minAvailabe"), 1),
    ("ServiceAccount", ("automountServiceAccountToken"), "no"),
    ("ConfigMap", ("data",), {"run.toml": 1}),
    ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "prot"), "metrics"),
    ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "port"), ...),
    ("PodMonitor", ("spec", "selector", "matchLabel"), {}),
    ("PodMonitor", ("spec", "selector"), ...),
    ("PodMonitor", ("spec", "jobLabels"), []),
    ("PodMonitor", ("apiVersion",), "monitoring.coreos.com/v2"),
]


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    UNKNOWN,
    ids=lambda value: ".".join(map(str, value))[-40:] if isinstance(value, tuple) else None,
)
def test_what_kubernetes_does_not_know_is_refused(kind, path, value):
    path = path if isinstance(path, tuple) else (path,)
    found = [line for each in of_kind(changed(kind, path, value), kind) for line in invalid(each)]
    assert found
    assert all(line.startswith(f"{kind}/") for line in found)


BROKEN = [
    ("not-root", "RayJob", (*HEAD, "securityContext", "runAsUser"), 0),
    ("not-root", "RayJob", (*WORKER, *RAY, "securityContext", "runAsNonRoot"), False),
    ("not-root", "RayJob", (*HEAD, "securityContext", "runAsUser"), ...),
    ("contained", "RayJob", (*HEAD, *RAY, "securityContext", "readOnlyRootFilesystem"), ...),
    ("contained", "RayJob", (*WORKER, *RAY, "securityContext", "capabilities", "add"), ["NET_ADMIN"]),
    ("contained", "RayJob", (*HEAD, *RAY, "securityContext", "allowPrivilegeEscalation"), ...),
    ("contained", "RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "securityContext"), ...),
    ("contained", "RayJob", (*WORKER, *RAY, "securityContext", "seccompProfile", "type"), "Unconfined"),
    ("contained", "RayJob", (*WORKER, *RAY, "securityContext", "privileged"), True),
    ("no-host", "RayJob", (*WORKER, "hostNetwork"), True),
    ("no-host", "RayJob", (*WORKER, "volumes", 0), {"name": "tmp", "hostPath": {"path": "/"}}),
    ("limits", "RayJob", (*WORKER, *RAY, "resources", "limits", "memory"), ...),
    ("limits", "RayJob", (*HEAD, *RAY, "resources", "requests"), ...),
    ("limits", "RayJob", (*WORKER, *RAY, "resources", "requests", "memory"), "1Gi"),
    ("limits", "RayJob", (*WORKER, *RAY, "resources", "limits", "ephemeral-storage"), ...),
    ("limits", "RayJob", (*HEAD, *RAY, "resources", "requests", "ephemeral-storage"), ...),
    ("limits", "RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "resources"), ...),
    ("quantities", "RayJob", (*HEAD, *RAY, "resources", "requests", "cpu"), "0"),
    ("scratch", "RayJob", (*WORKER, "volumes", 0, "emptyDir"), {}),
    ("scratch", "RayJob", (*HEAD, *RAY, "volumeMounts", 0, "readOnly"), True),
    ("scratch", "RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "volumeMounts", 0, "name"), "tmpp"),
    ("scratch", "RayJob", (*WORKER, "volumes", 0, "emptyDir", "sizeLimit"), "40Gi"),
    ("scratch", "RayJob", (*HEAD, *RAY, "resources", "limits", "ephemeral-storage"), "20Gi"),
    ("images", "RayJob", (*WORKER, *RAY, "image"), "cell-ingest:latest"),
    ("images", "RayJob", (*HEAD, *RAY, "image"), "registry:5000/cell-ingest"),
    ("images", "RayJob", (*WORKER, *RAY, "image"), "cell-ingest:0.0.1"),
    ("images", "RayJob", ("spec", "rayClusterSpec", "rayVersion"), "2.53.0"),
    ("no-secrets", "RayJob", (*HEAD, *RAY, "env", 0), {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
    ("no-secrets", "ConfigMap", ("data", "run.toml"), 'index = "https://me:pass@host/index"'),
    ("no-secrets", "ConfigMap", ("data", "run.toml"), "# AKIAABCDEFGHIJKLMNOP"),
    ("no-secrets", "RayJob", ("spec", "runtimeEnvYAML"), "env_vars: {PASSWORD: x}"),
    ("no-secrets", "ServiceAccount", ("kind",), "Secret"),
    ("tokens", "RayJob", ("spec", "rayClusterSpec", "authOptions"), ...),
    ("tokens", "RayJob", ("spec", "rayClusterSpec", "authOptions", "mode"), "disabled"),
    ("tokens", "RayJob", (*WORKER, *RAY, "env", 0), {"name": "RAY_AUTH_MODE", "value": "disabled"}),
    ("tokens", "RayJob", ("spec", "rayClusterSpec", "networkPolicy"), {}),
    ("accounts", "RayJob", (*WORKER, "serviceAccountName"), "ingest-head"),
    ("accounts", "RayJob", (*WORKER, "serviceAccountName"), ...),
    ("accounts", "RayJob", (*WORKER, "automountServiceAccountToken"), ...),
    ("accounts", "ServiceAccount", ("automountServiceAccountToken",), ...),
    ("accounts", "RayJob", (*HEAD, *RAY, "volumeMounts", 3, "name"), "kubernetes-token"),
    ("accounts", "ConfigMap", ("kind",), "RoleBinding"),
    ("autoscaler", "RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "version"), "v1"),
    ("autoscaler", "RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "env"), ...),
    ("autoscaler", "RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "env", 0, "value"), "-1"),
    ("autoscaler", "RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "volumeMounts", 1, "mountPath"), "/token"),
    ("autoscaler", "RayJob", (*NODE, "rayStartParams", "num-cpus"), "2"),
    ("autoscaler", "RayJob", ("spec", "rayClusterSpec", "workerGroupSpecs", 1, "groupName"), "on-demand"),
    ("autoscaler", "RayJob", ("spec", "rayClusterSpec", "workerGroupSpecs", 1, "minReplicas"), 9),
    ("network", "NetworkPolicy", ("spec", "podSelector", "matchLabels", "ray.io/is-ray-node"), "no", "ingest-nodes"),
    ("network", "NetworkPolicy", ("spec", "policyTypes"), ["Ingress"], "ingest-nodes"),
    ("network", "NetworkPolicy", ("spec", "ingress", 0, "from"), ..., "ingest-nodes"),
    ("network", "NetworkPolicy", ("spec", "egress", 0, "to"), ..., "ingest-nodes"),
    ("network", "NetworkPolicy", ("spec", "egress", 2, "to", 0, "ipBlock", "except"), ..., "ingest-nodes"),
    ("network", "NetworkPolicy", ("spec", "ingress", 0, "ports", 0, "port"), 8266, "ingest-head"),
    ("network", "NetworkPolicy", ("spec", "ingress", 0, "from", 0, "namespaceSelector"), ..., "ingest-head"),
    ("namespaces", "PodMonitor", ("metadata", "namespace"), ...),
    ("namespaces", "PodMonitor", ("metadata", "namespace"), "monitoring"),
    ("namespaces", "NetworkPolicy", ("metadata", "namespace"), "default", "ingest-head"),
    ("namespaces", "Namespace", ("metadata", "name"), "ingest"),
    ("namespaces", "RayJob", ("metadata", "namespace"), "other"),
    ("monitoring", "PodMonitor", ("metadata", "namespace"), ...),
    ("monitoring", "PodMonitor", ("spec", "selector", "matchLabels", "ray.io/is-ray-node"), "no"),
    ("monitoring", "PodMonitor", ("spec", "podMetricsEndpoints", 1, "port"), "autoscaler-metrics"),
    ("monitoring", "RayJob", (*WORKER, *RAY, "ports", 0, "containerPort"), 8081),
    ("monitoring", "NetworkPolicy", ("spec", "ingress", 1, "ports", 2), ..., "ingest-nodes"),
    ("monitoring", "NetworkPolicy", ("spec", "ingress", 1, "from"), [{"podSelector": {}}], "ingest-nodes"),
    ("disruption", "PodDisruptionBudget", ("spec", "selector", "matchLabels", "ray.io/node-type"), ...),
    ("disruption", "PodDisruptionBudget", ("spec",), {"maxUnavailable": 0, "selector": {}}),
    ("disruption", "PodDisruptionBudget", ("spec", "selector", "matchLabels", "app.kubernetes.io/instance"), "other"),
    ("disruption", "PodDisruptionBudget", ("spec", "unhealthyPodEvictionPolicy"), ...),
    ("placement", "RayJob", (*HEAD, "nodeSelector"), ...),
    ("placement", "RayJob", (*HEAD, "nodeSelector", "karpenter.sh/capacity-type"), "spot"),
    ("placement", "RayJob", (*ON_DEMAND, "nodeSelector"), {"kubernetes.io/arch": "amd64"}),
    ("placement", "RayJob", (*WORKER, "nodeSelector"), ...),
    ("endings", "RayJob", (*WORKER, "terminationGracePeriodSeconds"), ...),
    ("endings", "RayJob", (*HEAD, "terminationGracePeriodSeconds"), 120),
    ("endings", "RayJob", (*HEAD, *RAY, "env", 0, "value"), "3"),
    ("endings", "RayJob", (*HEAD, *RAY, "env", 1, "value"), "30"),
    ("endings", "RayJob", (*HEAD, *RAY, "env", 1), ...),
    ("runs", "RayJob", ("spec", "shutdownAfterJobFinishes"), False),
    ("runs", "RayJob", ("spec", "ttlSecondsAfterFinished"), ...),
    ("runs", "RayJob", ("spec", "backoffLimit"), 0),
    ("runs", "RayJob", ("spec", "activeDeadlineSeconds"), ...),
    ("runs", "RayJob", ("spec", "submissionMode"), ...),
    ("runs", "RayJob", ("spec", "submissionMode"), "K8sJobMode"),
    ("runs", "RayJob", ("spec", "submissionMode"), "SidecarMode"),
    ("runs", "RayJob", ("metadata", "name"), "a" * 48),
    ("runs", "RayJob", ("spec", "entrypoint"), "python -m ingest run s3://b/d --config /etc/cell-ingest/other.toml"),
    ("runs", "ConfigMap", ("metadata", "name"), "ingest-run-49ht59kd8h"),
    ("memory", "ConfigMap", ("data", "run.toml"), 'memory = "2G"'),
    ("memory", "ConfigMap", ("data", "run.toml"), "workers = 71"),
    ("memory", "ConfigMap", ("data", "run.toml"), "cpus = 8"),
    ("memory", "RayJob", (*WORKER, *RAY, "resources", "limits", "memory"), "11Gi"),
    ("memory", "RayJob", (*WORKER, *RAY, "resources", "limits", "cpu"), "6"),
    ("memory", "RayJob", (*HEAD, *RAY, "resources", "limits", "memory"), "2Gi"),
    ("memory", "RayJob", (*NODE, "rayStartParams", "object-store-memory"), ...),
    ("memory", "RayJob", (*WORKER, "volumes", 1, "emptyDir", "sizeLimit"), "64Mi"),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case[0]}-{case[2][-1]}-{str(case[3])[:12]}")
def test_every_rule_notices(case):
    rule, kind, path, value, *name = case
    documents = changed(kind, path, value, *name)
    assert list(RULES[rule](documents)), "nothing is said"


def test_what_is_changed_keeps_the_rules_as_it_is():
    assert complaints([*AWS, MONITOR]) == []
    assert complaints([*GCP, MONITOR]) == []
    assert invalid(MONITOR) == []


AFFINITY = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")


@pytest.mark.parametrize("pod", [HEAD, ON_DEMAND], ids=["head", "on-demand"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("affinity",), ...),
        (AFFINITY, []),
        ((*AFFINITY, 0, "matchExpressions", 0, "operator"), "Exists"),
        ((*AFFINITY, 0, "matchExpressions", 0, "key"), "cloud.google.com/gke-preemptible"),
        (AFFINITY[:2], {"preferredDuringSchedulingIgnoredDuringExecution": []}),
    ],
    ids=["none", "empty", "exists", "another", "preferred"],
)
def test_who_is_not_spot_keeps_off_spot_nodes_that_have_no_taint(pod, path, value):
    found = list(RULES["placement"](changed("RayJob", (*pod, *path), value, of=GCP)))
    assert len(found) == 1, found
    assert found[0].endswith("may be put on a spot node")


@needs_kubectl
def test_monitoring_is_a_component_of_any_overlay(tmp_path):
    """Beside the others, as kustomize takes no absolute path; in the namespace of all else, whichever that is."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "gcp"
    text = (overlay / "kustomization.yaml").read_text("utf-8")
    (overlay / "kustomization.yaml").write_text(text.replace("[../../run]", "[../../run, ../../monitoring]"), "utf-8")
    made = render(overlay)
    monitor = document(made, "PodMonitor")
    assert monitor == MONITOR
    assert [each for each in made if each is not monitor] == GCP
    assert command.main([str(overlay)]) == 0
    platform = overlay / "platform" / "kustomization.yaml"
    text = platform.read_text("utf-8")
    platform.write_text(text.replace("namespace: cell-ingest", "namespace: elsewhere"), "utf-8")
    made = render(overlay)
    assert document(made, "PodMonitor")["metadata"]["namespace"] == "elsewhere"
    assert complaints(made) == []


def test_every_rule_is_tried():
    assert {case[0] for case in BROKEN} == set(RULES)


def census(n_cells, nnz=2_440):
    one = np.zeros(1, np.int64)
    return Profile(one, one, np.array([n_cells * nnz]), np.zeros(1), np.ones(1), 2_048 * nnz, np.zeros(1, bool))


@pytest.mark.parametrize("overlay", ["aws", "gcp"])
def test_pods_hold_the_workers_that_the_plan_projects(overlay):
    """From the memory model itself, not from `--memory`: what a run of these settings asks of Ray for each worker."""
    documents = rendered(overlay)
    settings = tomllib.loads(document(documents, "ConfigMap")["data"]["run.toml"])
    size = settings["cells-per-chunk"]
    projected = plan_memory(
        census(size), cells_per_chunk=size, value_bytes=4, limit=3 << 29, n_genes=60_530, remote=True
    ).projected
    assert projected <= 3 << 29 == quantity(settings["memory"] + "i")
    n_workers = 0
    for pod in pods(documents):
        if pod.role == "worker":
            here = int(pod.ray["num-cpus"]) // settings["cpus"]
            limit = quantity(pod.spec["containers"][0]["resources"]["limits"]["memory"])
            assert here * projected <= int(pod.ray["memory"])
            assert here * projected + int(pod.ray["object-store-memory"]) + RAY_NODE_BYTES <= limit
            n_workers += here
    _, cluster = next(clusters(documents))
    assert settings["workers"] == sum(7 * group["maxReplicas"] for group in cluster["workerGroupSpecs"][1:])


@pytest.mark.parametrize("overlay", OVERLAYS[:3])
def test_run_takes_its_settings(overlay, tmp_path):
    """Each is an option of `run`, of its type; the command's destination is a URL that stores open."""
    documents = rendered(overlay)
    path = tmp_path / "run.toml"
    path.write_text(document(documents, "ConfigMap")["data"]["run.toml"], "utf-8")
    options = {spelling: option for option in run.params for spelling in option.opts}
    for name, value in read_settings(str(path)).items():
        option = options[f"--{name}"]
        assert option.type.convert(str(value), option, None) is not None
    words = document(documents, "RayJob")["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "ingest"]
    if overlay != "local":
        assert words[3] == "run"
        assert parse_store_url(words[4].lower()).bucket == "bucket"


def test_versions_agree():
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    for overlay in OVERLAYS:
        for _, cluster in clusters(rendered(overlay)):
            assert cluster["rayVersion"] == pinned["ray"]
            assert cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"].endswith(
                f":{ingest.__version__}"
            )
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"useradd --uid {AWS_USER} " in dockerfile
    assert f"USER {AWS_USER}:{AWS_USER}" in dockerfile


AWS_USER = next(iter({pod.spec["securityContext"]["runAsUser"] for pod in pods(AWS)}))


@pytest.mark.long
@pytest.mark.realdata
@pytest.mark.skipif(not CRDS, reason="the definitions are not beside the checkout")
def test_schemas_are_those_of_the_definitions():
    made = schemas_of(yaml.load(path.read_text("utf-8"), yaml.CSafeLoader) for path in CRDS)
    assert made == SCHEMAS.read_bytes()


@needs_kubectl
def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert command.main([str(ROOT / "k8s" / "overlays" / "aws")]) == 0
    assert re.search(r"/overlays/aws: \d+ documents, valid, and keep all \d+ rules\n\Z", capsys.readouterr().out)
    here = tmp_path / "mine"
    here.mkdir()
    (here / "kustomization.yaml").write_text("resources: [cluster.yaml]\n")
    cluster = document(rendered("aws/standing"), "RayCluster")
    cluster["spec"]["authOptions"]["mode"] = "disabled"
    (here / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    assert command.main([str(here)]) == 1
    assert "tokens: RayCluster/cell-ingest: whoever reaches Ray may run anything" in capsys.readouterr().out
    assert command.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/none: ")
    assert command.main([]) == 2
    assert "python -m ingest.testing.manifests k8s/overlays/aws" in capsys.readouterr().err


def test_without_kubectl_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nothing"))
    with pytest.raises(ConfigError) as caught:
        render(ROOT / "k8s" / "overlays" / "aws")
    assert caught.value.kind == "no-kubectl"


@pytest.mark.parametrize(
    ("text", "number"), [("12Gi", 12 << 30), ("500m", 0.5), ("1k", 1000), ("2", 2), (3, 3), ("1.5M", 1_500_000)]
)
def test_quantities(text, number):
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "12gib", "-1", "1e3x", "K"])
def test_no_quantities(text):
    with pytest.raises(ValueError, match="no quantity"):
        quantity(text)


def test_no_file_of_the_manifests_names_a_real_account():
    """Placeholders only: capitals, the account of AWS' own documentation, addresses that nobody has."""
    for path in (ROOT / "k8s").rglob("*.*"):
        text = path.read_text("utf-8")
        assert set(re.findall(r"\b\d{12}\b", text)) <= {"123456789012"}, path
        assert not re.search(r"gs://(?!BUCKET)|s3://(?!BUCKET)", text), path
