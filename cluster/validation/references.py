"""Whether all that is named is there: images, Secrets, ConfigMaps, claims, accounts, services, ports and metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.secrets import SECRETS
from cluster.validation.manifests import Manifest, Overlay, Pod, Problem, selects
from cluster.validation.services import Service, addresses_in, services_of
from rayapp.nested import texts_in

_BAKE = Path(__file__).parent.parent / "images/docker-bake.hcl"
_OURS = re.compile(r"(?:.*/)?rayapp/([\w-]+)")
_SETTINGS = Path(__file__).parent.parent / "manifests/overlays/eks-prod/settings/settings.env"
_OWN_METRIC = re.compile(r"\bray_(rayapp_\w+)")
_METRIC_SUFFIXES = ("_bucket", "_sum", "_count", "_total")
_DEFAULT_ACCOUNT = "default"
_PACKAGES = ("rayapp", "pipelines", "serve")
_PROJECT = Path(__file__).parent.parent.parent


def problems(overlay: Overlay, not_checked: Counter[str]) -> Iterator[Problem]:
    metrics, services = own_metrics(), services_of(overlay)
    yield from _of_doubles(overlay)
    for pod in overlay.pods():
        yield from _of_images(pod)
        yield from _of_volumes(pod, overlay)
        yield from _of_variables(pod, overlay)
        yield from _of_its_account(pod, overlay)
    for manifest in overlay.manifests:
        yield from _of_selectors(manifest, overlay)
        yield from _of_addresses(manifest, services, overlay, not_checked)
        yield from _of_placeholders(manifest)
        yield from _of_metrics(manifest, metrics)
        yield from _of_others(manifest, overlay)


def own_metrics() -> frozenset[str]:
    """Names of rayapp's metrics, without Ray's `ray_` in front and `_total` behind: those that its modules define."""
    files = [file for package in _PACKAGES for file in (_PROJECT / package).rglob("metrics.py")]
    sources = [file.read_text() for file in files]
    return frozenset(name for source in sources for name in re.findall(r'"(rayapp_\w+)"', source))


def _of_doubles(overlay: Overlay) -> Iterator[Problem]:
    """Of two objects of one name, that which is applied last is there."""
    seen: dict[tuple[str, str, str, str], Manifest] = {}
    for manifest in overlay.manifests:
        group = str(manifest.body["apiVersion"]).rpartition("/")[0]
        first = seen.setdefault((group, manifest.kind, manifest.namespace, manifest.name), manifest)
        if first.body != manifest.body:
            what = f"is in {first.part}, too, and not the same: whichever is applied last is there"
            yield manifest.problem("metadata.name", what)


def _of_images(pod: Pod) -> Iterator[Problem]:
    for number, container in enumerate(pod.containers):
        where = f"containers[{number}].image"
        if not (image := container.get("image")):
            yield pod.problem(where, "is missing")
            continue
        name, _, tag = image.rpartition(":")
        if not name or "/" in tag or tag == "latest":
            yield pod.problem(where, f"{image} has no version of its own: name a tag that does not move")
            continue
        if image != image.lower():
            yield pod.problem(where, f"{image} holds a placeholder that no settings.env has filled")
        if not (found := _OURS.fullmatch(name)):
            continue
        known = re.findall(r'"(\w+)"', next(line for line in _BAKE.read_text().splitlines() if "matrix" in line))
        if found[1] not in known:
            what = f"{image}: cluster/images/docker-bake.hcl makes no {found[1]}; it makes {', '.join(known)}"
            yield pod.problem(where, what)
        if tag != version("rayapp"):
            yield pod.problem(
                where, f"{image} is not of this version ({version('rayapp')}), whose command line was checked"
            )


def _of_volumes(pod: Pod, overlay: Overlay) -> Iterator[Problem]:
    namespace = pod.manifest.namespace
    claimed = {claim["metadata"]["name"] for claim in pod.manifest.spec.get("volumeClaimTemplates", [])}
    names = claimed | {volume["name"] for volume in pod.spec.get("volumes", [])}
    for number, volume in enumerate(pod.spec.get("volumes", [])):
        where = f"volumes[{number}]"
        if (claim := volume.get("persistentVolumeClaim", {}).get("claimName")) and not overlay.has(
            "PersistentVolumeClaim", claim, namespace
        ):
            yield pod.problem(where, f"PersistentVolumeClaim {claim} is nowhere in this overlay")
        yield from _of_a_source(pod, overlay, where, "ConfigMap", volume.get("configMap"))
        yield from _of_a_source(pod, overlay, where, "Secret", volume.get("secret"))
    for number, secret in enumerate(pod.spec.get("imagePullSecrets", [])):
        yield from _of_a_source(pod, overlay, f"imagePullSecrets[{number}]", "Secret", secret)
    for number, container in enumerate(pod.containers):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in names:
                what = f"volume {mount['name']} is not among the pod's ({', '.join(sorted(names)) or 'none'})"
                yield pod.problem(f"containers[{number}].volumeMounts", what)


def _of_variables(pod: Pod, overlay: Overlay) -> Iterator[Problem]:
    for number, container in enumerate(pod.containers):
        for variable in container.get("env", []):
            where = f"containers[{number}].env[{variable['name']}]"
            source = variable.get("valueFrom", {})
            yield from _of_a_source(pod, overlay, where, "Secret", source.get("secretKeyRef"))
            yield from _of_a_source(pod, overlay, where, "ConfigMap", source.get("configMapKeyRef"))
        for source in container.get("envFrom", []):
            where = f"containers[{number}].envFrom"
            yield from _of_a_source(pod, overlay, where, "ConfigMap", source.get("configMapRef"))
            yield from _of_a_source(pod, overlay, where, "Secret", source.get("secretRef"))
    if pod.ray_role == "head":
        password = pod.ray_cluster.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
        secret = password.get("valueFrom", {}).get("secretKeyRef")
        yield from _of_a_source(pod, overlay, "gcsFaultToleranceOptions.redisPassword", "Secret", secret)


def _of_a_source(
    pod: Pod, overlay: Overlay, where: str, kind: str, reference: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Of a Secret or ConfigMap that a pod cannot start without. reference: as Kubernetes has it, with or without a
    key."""
    if not reference or reference.get("optional"):
        return
    name, key = reference.get("name", reference.get("secretName")), reference.get("key")
    found = overlay.find(kind, name, pod.manifest.namespace)
    if found:
        keys = [key for data in ("data", "stringData", "binaryData") for key in found.body.get(data) or ()]
    elif name in overlay.expected.get(kind, ()):  # with keys that nobody tells here
        return
    elif kind == "Secret" and name in SECRETS:
        keys = list(SECRETS[name])
    else:
        made = f"; `rayapp cluster secrets` makes {', '.join(SECRETS)}" if kind == "Secret" else ""
        what = f"{kind} {name} is nowhere in this overlay{made}; say in its expected.yaml if the cluster has it"
        yield pod.problem(where, what)
        return
    if key and key not in keys:
        yield pod.problem(where, f"{kind} {name} has no {key}; it has {', '.join(keys) or 'nothing'}")


def _of_its_account(pod: Pod, overlay: Overlay) -> Iterator[Problem]:
    account = pod.spec.get("serviceAccountName", _DEFAULT_ACCOUNT)
    if account != _DEFAULT_ACCOUNT and not overlay.has("ServiceAccount", account, pod.manifest.namespace):
        known = sorted(m.name for m in overlay.of_kind("ServiceAccount"))
        yield pod.problem("serviceAccountName", f"{account} is nowhere in this overlay; there are {', '.join(known)}")


def _of_selectors(manifest: Manifest, overlay: Overlay) -> Iterator[Problem]:
    """Services, budgets, policies and monitors that choose nobody, and ports that those whom they choose have not."""
    spec = manifest.spec
    ports: list[str | int] = []
    match manifest.kind:
        case "Service":
            selector = {"matchLabels": spec.get("selector")}
            ports = [p.get("targetPort", p["port"]) for p in spec.get("ports", [])]
        case "PodDisruptionBudget":
            selector = spec.get("selector") or {}
        case "PodMonitor":
            selector = spec["selector"]
            named = ("port", "portNumber", "targetPort")
            ports = [p[key] for p in spec.get("podMetricsEndpoints", []) for key in named if key in p]
        case "NetworkPolicy":
            selector = spec.get("podSelector") or {}
        case _:
            return
    if not any(selector.values()):
        return
    chosen = [
        pod for pod in overlay.pods() if _looks_into(manifest, pod.manifest.namespace) and selects(selector, pod.labels)
    ]
    if not chosen:
        yield manifest.problem("spec.selector", f"no pod of this overlay has {_shown(selector)}")
        return
    if manifest.kind == "PodDisruptionBudget" and any(pod.ray_role for pod in chosen):
        yield from _of_a_budget_of_ray(manifest)
    known = {port for pod in chosen for port in _ports(pod)}
    for port in ports:
        if port not in known:
            what = f"{port} is no port of the pods that it chooses; they have {', '.join(sorted(map(str, known)))}"
            yield manifest.problem("spec.ports", what)


def _looks_into(manifest: Manifest, namespace: str) -> bool:
    """Whether what chooses pods does so in a namespace: in its own, or, as a monitor may, in others."""
    others = manifest.spec.get("namespaceSelector") or {} if manifest.kind == "PodMonitor" else {}
    return bool(others.get("any")) or namespace in others.get("matchNames", [manifest.namespace])


def _of_a_budget_of_ray(manifest: Manifest) -> Iterator[Problem]:
    """An operator's pods have no scale that Kubernetes could ask for: all others' shares are of nothing."""
    if not isinstance(manifest.spec.get("minAvailable"), int):
        told = ", ".join(f"{key} {value}" for key, value in manifest.spec.items() if key != "selector")
        what = (
            f"{told}: for pods that KubeRay makes, Kubernetes takes a whole number for minAvailable, and nothing else"
        )
        yield manifest.problem("spec.minAvailable", what)


def _shown(selector: Mapping[str, Any]) -> str:
    exact = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    return ", ".join([*exact, *map(str, selector.get("matchExpressions") or [])])


def _of_addresses(
    manifest: Manifest, services: Mapping[tuple[str, str], Service], overlay: Overlay, not_checked: Counter[str]
) -> Iterator[Problem]:
    for address in addresses_in(manifest.body, manifest.namespace, overlay):
        there = {name: service for (namespace, name), service in services.items() if namespace == address.namespace}
        service = there.get(address.name)
        if address.namespace != manifest.namespace and not there:
            where = f"{address.name}.{address.namespace}:{address.port}"
            not_checked[f"whether {where} is there: the overlay has no Service in that namespace"] += 1
        elif service is None:
            known = ", ".join(there)
            what = f"{address}: no Service is called {address.name} in {address.namespace}; there are {known}"
            yield manifest.problem(address.path, what)
        elif address.port not in service.ports and not service.elsewhere:
            what = f"{address}: the Service {address.name} has {', '.join(map(str, sorted(service.ports)))}"
            yield manifest.problem(address.path, what)


def _of_placeholders(manifest: Manifest) -> Iterator[Problem]:
    placeholders = re.findall(r"^(\w+)=", _SETTINGS.read_text(), re.MULTILINE)
    for path, text in texts_in(manifest.body):
        if text in placeholders:
            yield manifest.problem(path, f"{text} is a placeholder that no settings.env has filled")


def _of_metrics(manifest: Manifest, metrics: frozenset[str]) -> Iterator[Problem]:
    for path, text in texts_in(manifest.body):
        for name in set(_OWN_METRIC.findall(text)):
            bare = next((name.removesuffix(s) for s in _METRIC_SUFFIXES if name.removesuffix(s) in metrics), name)
            if bare not in metrics:
                yield manifest.problem(
                    path, f"ray_{name}: nothing in rayapp has this metric; it has {', '.join(sorted(metrics))}"
                )


def _of_others(manifest: Manifest, overlay: Overlay) -> Iterator[Problem]:
    spec = manifest.spec
    if manifest.kind == "PersistentVolumeClaim":
        claims = [("spec", spec)]
    else:
        templates = spec.get("volumeClaimTemplates", []) if manifest.kind == "StatefulSet" else []
        claims = [(f"spec.volumeClaimTemplates[{n}].spec", claim["spec"]) for n, claim in enumerate(templates)]
    for where, claim in claims:
        if (name := claim.get("storageClassName")) and not overlay.has("StorageClass", name, "default"):
            what = f"{name} is nowhere in this overlay; say in its expected.yaml if the cluster has it"
            yield manifest.problem(f"{where}.storageClassName", what)
        if (volume := claim.get("volumeName")) and not overlay.has("PersistentVolume", volume, "default"):
            yield manifest.problem(f"{where}.volumeName", f"PersistentVolume {volume} is nowhere in this overlay")


def _ports(pod: Pod) -> Iterator[str | int]:
    for container in pod.containers:
        for port in container.get("ports", []):
            yield port["containerPort"]
            if "name" in port:
                yield port["name"]
