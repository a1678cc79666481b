"""The objects of an overlay, as kustomize renders them, and the pods that they make."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from cluster.validation.quantities import exact
from rayapp.errors import UserError

OVERLAYS = Path(__file__).parent.parent / "manifests" / "overlays"
_EXPECTED = "expected.yaml"
_NODES = "nodes.yaml"
_ROLE = "ray.io/node-type"
_RAY_LABELS = {
    "ray.io/is-ray-node": "yes",
    "app.kubernetes.io/name": "kuberay",
    "app.kubernetes.io/created-by": "kuberay-operator",
}
UNBOUNDED = 2**31 - 1
"""What KubeRay takes for `maxReplicas` where nothing is said."""
_RENDERERS = (("kubectl", "kustomize"), ("kustomize", "build"))


@dataclass(frozen=True)
class Problem:
    """Something that would not work, or not as it looks."""

    where: str
    """`PART: KIND NAME: FIELD`."""
    what: str
    """What is there, and what to do."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Manifest:
    """An object of Kubernetes'."""

    part: str
    """The folder that it comes from, such as `eks-prod/serving`."""
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.body["metadata"].get("namespace", "default"))

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.body.get("spec") or {}

    def problem(self, field_path: str, what: str) -> Problem:
        return Problem(f"{self.part}: {self.kind} {self.name}: {field_path}", what)


@dataclass(frozen=True)
class Pod:
    """What pods are made from."""

    manifest: Manifest
    path: str
    """Of the template in the manifest, such as `spec.template`."""
    template: Mapping[str, Any]
    count: int
    """Most pods of it at a time."""
    added_labels: Mapping[str, str] = field(default_factory=dict)
    """Those that an operator gives them."""

    @property
    def ray_role(self) -> str | None:
        """`head` or `worker`; None for pods that are none of Ray's."""
        return self.added_labels.get(_ROLE)

    @property
    def ray_cluster(self) -> Mapping[str, Any]:
        """What it is part of, and nothing for pods that are none of Ray's."""
        found = ray_cluster_of(self.manifest) if self.ray_role else None
        return found[1] if found else {}

    @property
    def labels(self) -> dict[str, str]:
        return {**((self.template.get("metadata") or {}).get("labels") or {}), **self.added_labels}

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.template["spec"]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def requests(self) -> dict[str, Decimal]:
        """What it asks its node for, by resource: as much as its containers, or as the largest that initialises it."""
        sidecars = [c for c in self.spec.get("initContainers", []) if c.get("restartPolicy") == "Always"]
        together = _sum(map(_requests, [*self.spec["containers"], *sidecars]))
        for container in self.spec.get("initContainers", []):
            for name, wanted in _requests(container).items():
                together[name] = max(together.get(name, Decimal()), wanted)
        return together

    def problem(self, field_path: str, what: str) -> Problem:
        return self.manifest.problem(f"{self.path}.spec.{field_path}", what)


@dataclass(frozen=True)
class Overlay:
    """All that is applied to one cluster, and what it takes for granted."""

    name: str
    manifests: Sequence[Manifest]
    expected: Mapping[str, Sequence[str]]
    """By kind, the names of what the cluster has already: see `expected.yaml`."""
    nodes: Sequence[Mapping[str, Any]] = ()
    """Objects of the kind Node, of a cluster whose nodes are there once and for all: see `nodes.yaml`."""

    def of_kind(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest.kind in kinds]

    def pods(self) -> Iterator[Pod]:
        for manifest in self.manifests:
            yield from pods_of(manifest)

    def find(self, kind: str, name: str, namespace: str = "default") -> Manifest | None:
        """Of kinds that are the whole cluster's, without a namespace."""
        return next((m for m in self.of_kind(kind) if (m.name, m.namespace) == (name, namespace)), None)

    def has(self, kind: str, name: str, namespace: str = "default") -> bool:
        """Whether it is in the overlay, or the cluster has it already."""
        return self.find(kind, name, namespace) is not None or name in self.expected.get(kind, ())

    def labels_of(self, namespace: str) -> dict[str, str]:
        """As far as the overlay knows them, and that which Kubernetes gives."""
        own = [m.body["metadata"].get("labels") or {} for m in self.of_kind("Namespace") if m.name == namespace]
        return {"kubernetes.io/metadata.name": namespace, **(own[0] if own else {})}


def open_overlay(name: str) -> Overlay:
    """An overlay by its name or folder. Raises `UserError` where there is none, or a part cannot be rendered."""
    folder = Path(name) if Path(name).is_dir() else OVERLAYS / name
    if not folder.is_dir():
        raise UserError(f"there is no overlay {name!r}; known: {', '.join(overlay_names())}; or give a folder")
    parts = sorted(file.parent for file in folder.glob("*/kustomization.yaml") if _is_built(file))
    if not parts:
        raise UserError(f"{folder} has no parts: folders with a kustomization.yaml")
    manifests = [manifest for part in parts for manifest in _render(part)]
    file = folder / _EXPECTED
    expected = yaml.safe_load(file.read_text()) if file.is_file() else {}
    return Overlay(folder.name, manifests, expected, _read_nodes(folder / _NODES))


def overlay_names() -> list[str]:
    return sorted(folder.name for folder in OVERLAYS.iterdir() if folder.is_dir())


def pods_of(manifest: Manifest) -> Iterator[Pod]:
    """The pods that an object makes, and those that KubeRay makes from it."""
    spec = manifest.spec
    match manifest.kind:
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            count = spec.get("parallelism" if manifest.kind == "Job" else "replicas", 1)
            yield Pod(manifest, "spec.template", spec["template"], count)
        case "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            yield Pod(manifest, "spec.jobTemplate.spec.template", template, 1)
        case "RayJob" if "submitterPodTemplate" in spec:
            yield Pod(manifest, "spec.submitterPodTemplate", spec["submitterPodTemplate"], 1)
    if found := ray_cluster_of(manifest):
        path, cluster = found
        yield _ray_pod(manifest, f"{path}.headGroupSpec", cluster["headGroupSpec"], "head", 1)
        scales = cluster.get("enableInTreeAutoscaling", False)
        for number, group in enumerate(cluster.get("workerGroupSpecs", [])):
            replicas = group.get("replicas", group.get("minReplicas", 0))
            count = (group.get("maxReplicas", UNBOUNDED) if scales else replicas) * group.get("numOfHosts", 1)
            yield _ray_pod(manifest, f"{path}.workerGroupSpecs[{number}]", group, "worker", count)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes' chooses what has these labels; one that says nothing chooses all.

    >>> selects({"matchLabels": {"app": "a"}}, {"app": "a", "part": "b"})
    True
    >>> selects({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}, {"app": "a"})
    False
    """
    exact = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return exact and all(_meets(expression, labels) for expression in selector.get("matchExpressions") or [])


def ray_cluster_of(manifest: Manifest) -> tuple[str, Mapping[str, Any]] | None:
    """The RayCluster in one of KubeRay's kinds, with its path."""
    key = {"RayCluster": "", "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(manifest.kind)
    if key is None or (key and key not in manifest.spec):
        return None
    return (f"spec.{key}", manifest.spec[key]) if key else ("spec", manifest.spec)


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def _ray_pod(manifest: Manifest, path: str, group: Mapping[str, Any], role: str, count: int) -> Pod:
    labels = {
        **group.get("labels", {}),
        **_RAY_LABELS,
        _ROLE: role,
        "ray.io/group": group.get("groupName", "headgroup"),
    }
    if manifest.kind == "RayCluster":  # others' get names that nobody knows before
        labels["ray.io/cluster"] = manifest.name
    return Pod(manifest, f"{path}.template", group["template"], count, labels)


def _requests(container: Mapping[str, Any]) -> dict[str, Decimal]:
    resources = container.get("resources", {})
    # Where a limit alone is said, the API takes it for the request.
    said = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: exact(quantity) for name, quantity in said.items()}


def _sum(each: Iterable[Mapping[str, Decimal]]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for requests in each:
        for name, wanted in requests.items():
            total[name] = total.get(name, Decimal()) + wanted
    return total


def _without_nulls(value: Any) -> Any:
    """A key whose value is null is one that is not there, as the API server takes it."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _read_nodes(file: Path) -> list[Mapping[str, Any]]:
    if not file.is_file():
        return []
    try:
        nodes: list[Mapping[str, Any]] = yaml.safe_load(file.read_text())["items"]
        for node in nodes:
            _ = node["metadata"]["name"], exact(node["status"]["allocatable"]["cpu"])
            _ = exact(node["status"]["allocatable"]["memory"])
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{file} does not list nodes as `kubectl get nodes -o yaml` does: each of its items needs metadata.name, "
            f"and cpu and memory in status.allocatable ({type(error).__name__}: {error})"
        ) from error
    return nodes


def _is_built(file: Path) -> bool:
    """A component is a part of others."""
    return yaml.safe_load(file.read_text()).get("kind") == "Kustomization"


def _render(part: Path) -> list[Manifest]:
    renderer = next((words for words in _RENDERERS if shutil.which(words[0])), None)
    if renderer is None:
        raise UserError("neither kubectl nor kustomize is on the PATH; install one of them to render manifests")
    done = subprocess.run([*renderer, str(part)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{part} cannot be rendered: {done.stderr.strip()}")
    bodies = [body for body in yaml.safe_load_all(done.stdout) if body]
    return [Manifest(f"{part.parent.name}/{part.name}", _without_nulls(body)) for body in bodies]
