"""The objects of an overlay, as kustomize renders them, and the pods that they make."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rayapp.errors import UserError

OVERLAYS = Path(__file__).parent.parent / "manifests" / "overlays"
_EXPECTED = "expected.yaml"
_ROLE = "ray.io/node-type"
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
    def labels(self) -> dict[str, str]:
        return {**((self.template.get("metadata") or {}).get("labels") or {}), **self.added_labels}

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.template["spec"]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def problem(self, field_path: str, what: str) -> Problem:
        return self.manifest.problem(f"{self.path}.spec.{field_path}", what)


@dataclass(frozen=True)
class Overlay:
    """All that is applied to one cluster, and what it takes for granted."""

    name: str
    manifests: Sequence[Manifest]
    expected: Mapping[str, Sequence[str]]
    """By kind, the names of what the cluster has already: see `expected.yaml`."""

    def of_kind(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest.kind in kinds]

    def pods(self) -> Iterator[Pod]:
        for manifest in self.manifests:
            yield from pods_of(manifest)

    def has(self, kind: str, name: str, namespace: str) -> bool:
        there = any(m.name == name and m.namespace == namespace for m in self.of_kind(kind))
        return there or name in self.expected.get(kind, ())


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
    return Overlay(folder.name, manifests, expected)


def overlay_names() -> list[str]:
    return sorted(folder.name for folder in OVERLAYS.iterdir() if folder.is_dir())


def pods_of(manifest: Manifest) -> Iterator[Pod]:
    """The pods that an object makes, and those that KubeRay makes from it."""
    spec = manifest.spec
    match manifest.kind:
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            yield Pod(manifest, "spec.template", spec["template"], spec.get("replicas", 1))
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
            count = (group.get("maxReplicas", replicas) if scales else replicas) * group.get("numOfHosts", 1)
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
    return Pod(manifest, f"{path}.template", group["template"], count, {_ROLE: role})


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
    return [Manifest(f"{part.parent.name}/{part.name}", body) for body in bodies]
