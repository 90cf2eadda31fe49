"""Strict validation, offline: a field that Kubernetes or KubeRay does not know is a mistake, not a wish.

``kuberay.json.xz`` holds the schemas of ``ray.io/v1`` RayCluster and RayJob, out of the CustomResourceDefinitions of
https://github.com/ray-project/kuberay (Apache-2.0, August 2026), without descriptions and status. ``python -m
ingest.testing.manifests.schemas FILE.crd.yaml …`` makes it of newer ones. Everything else is validated by
kubernetes-validate, and so are the templates of pods, once more: a CRD's copy of a pod is only as new as the CRD. Of
the Prometheus operator's PodMonitor the few fields that are used here are known, and no others.
"""

from __future__ import annotations

import json
import lzma
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from ingest.testing.manifests.documents import clusters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ingest.testing.manifests.documents import Document

__all__ = ["SCHEMAS", "custom_schemas", "invalid"]

SCHEMAS = Path(__file__).with_name("kuberay.json.xz")
_KUBERNETES = "1.33"
_TEXT = {"type": "string", "minLength": 1}
_POD_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {},
        "spec": {
            "type": "object",
            "required": ["selector", "podMetricsEndpoints"],
            "properties": {
                "selector": {
                    "type": "object",
                    "properties": {"matchLabels": {"type": "object", "additionalProperties": _TEXT}},
                    "additionalProperties": False,
                },
                "podMetricsEndpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "properties": {"port": _TEXT, "path": _TEXT, "interval": _TEXT},
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def invalid(document: Document) -> list[str]:
    """Return what is wrong with one document, a line each."""
    name = f"{document['kind']}/{document['metadata']['name']}"
    if not document["apiVersion"].startswith("ray.io/"):
        return [f"{name}: {line}" for line in _builtin(document)]
    found = [f"{name}: {line}" for line in _custom(document)]
    return found or [f"{name}: {where}: {line}" for where, pod in _templates(document) for line in _builtin(pod)]


def _custom(document: Document) -> Iterator[str]:
    if document["apiVersion"] != "ray.io/v1" or document["kind"] not in custom_schemas():
        yield f"no {document['apiVersion']} {document['kind']} is known"
        return
    validator = Draft202012Validator(_closed(document["kind"]))
    for error in validator.iter_errors({**document, "metadata": {}}):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    yield from _ruled(document.get("spec", {}), custom_schemas()[document["kind"]]["properties"]["spec"], "spec")


def _builtin(document: Document) -> Iterator[str]:
    try:
        validator = _validator(document["kind"], document["apiVersion"])
    except FileNotFoundError:
        yield f"no {document['apiVersion']} {document['kind']} is known"
        return
    for error in validator.iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


def _validator(kind: str, api_version: str) -> Draft202012Validator:
    if (kind, api_version) == ("PodMonitor", "monitoring.coreos.com/v1"):
        return Draft202012Validator(_POD_MONITOR)
    return _strict(kind.lower(), api_version)


@cache
def _strict(kind: str, api_version: str) -> Draft202012Validator:
    """Return a validator by kubernetes-validate's schemas; its own function reads ten megabytes for each document."""
    group, _, version = api_version.rpartition("/")
    name = f"{kind}-{group.partition('.')[0]}-{version}" if group else f"{kind}-{version}"
    schema = Resource.from_contents(_kubernetes(name))
    return Draft202012Validator(schema.contents, registry=schema @ (_definitions() @ Registry()))


@cache
def _definitions() -> Resource[Any]:
    return Resource.from_contents(_kubernetes("_definitions"))


def _kubernetes(name: str) -> Any:
    return schema_contents(f"kubernetes-json-schema/v{_KUBERNETES}.0-local-strict/{name}.json", _KUBERNETES)


def _templates(document: Document) -> Iterator[tuple[str, Document]]:
    """Yield every template of a pod, as the pod."""
    found: list[tuple[str, Document]] = []
    for _, cluster in clusters([document]):
        found.append(("head", cluster["headGroupSpec"]["template"]))
        found += [(group["groupName"], group["template"]) for group in cluster.get("workerGroupSpecs", [])]
    for where, template in found:
        yield where, {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **template}


def _ruled(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """Name the fields that have rules of CEL: nothing here evaluates them, and no manifest of ours needs one."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"{where}: has a rule that is not evaluated here ({rule['rule']})"
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(below := schema.get("properties", {}).get(key), dict):
                yield from _ruled(inner, below, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _ruled(inner, schema.get("items", {}), f"{where}.{number}")


@cache
def custom_schemas() -> dict[str, Any]:
    """Return kind -> schema, as the definition has it."""
    found: dict[str, Any] = json.loads(lzma.decompress(SCHEMAS.read_bytes()))
    return found


@cache
def _closed(kind: str) -> dict[str, Any]:
    closed: dict[str, Any] = _close(custom_schemas()[kind])
    closed["properties"]["metadata"] = {}  # ObjectMeta, which the definition leaves to Kubernetes
    return closed


def _close(schema: Any) -> Any:
    """Refuse unknown fields wherever fields are named; say in JSON Schema's words what a CRD says in its own."""
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: {name: _close(inner) for name, inner in value.items()} if key == "properties" else _close(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-")
    }
    if "properties" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    return closed


def schemas_of(definitions: Iterable[Document]) -> bytes:
    """Return ``kuberay.json.xz`` of CustomResourceDefinitions."""
    found = {}
    for definition in definitions:
        version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
        schema = _plain(version["schema"]["openAPIV3Schema"])
        del schema["properties"]["status"]
        found[definition["spec"]["names"]["kind"]] = schema
    return lzma.compress(json.dumps(found, sort_keys=True, separators=(",", ":")).encode(), preset=9)


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _plain(value) for key, value in schema.items() if key != "description" or isinstance(value, dict)}


if __name__ == "__main__":
    SCHEMAS.write_bytes(schemas_of(yaml.safe_load(Path(path).read_text("utf-8")) for path in sys.argv[1:]))
