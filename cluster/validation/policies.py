"""Whether NetworkPolicies let pods reach those whom they name: what is shut out waits, and says nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from cluster.validation.manifests import Manifest, Overlay, Pod, Problem, pods_of, selects
from cluster.validation.services import Address, addresses_in, services_of

_JOBS_PORT = 8265
_LAST_PORT = 65535
_BESIDE_PODS = ("entrypoint", "runtimeEnvYAML", "serveConfigV2", "gcsFaultToleranceOptions")
"""Of a manifest of KubeRay's: what its pods are told otherwise than by their templates."""


@dataclass(frozen=True)
class _Ports:
    """Those at which a pod wants to reach another."""

    first: int | str
    last: int | str
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"port {self.first}" if self.first == self.last else "every port"


_EVERY_PORT = _Ports(1, _LAST_PORT)
_NAMES = Pod(
    Manifest("", {"kind": "Deployment", "metadata": {"name": "coredns", "namespace": "kube-system"}}),
    "spec.template",
    {"metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": {"containers": []}},
    count=2,
)
"""Who tells pods where a name is: each cluster has them, and no overlay of ours."""


def problems(overlay: Overlay, not_checked: Counter[str]) -> Iterator[Problem]:
    services = services_of(overlay)
    for pod in overlay.pods():
        for address in _named_by(pod, overlay):
            service = services.get((address.namespace, address.name))
            if service is None or address.port not in service.ports:  # told by `references`
                continue
            for target in service.pods:
                number = _number(service.ports[address.port], target)
                if why := _shut_out(pod, target, _Ports(number, number), overlay, not_checked):
                    yield pod.manifest.problem(address.path, f"{address}: {why}")
        looks_up = pod.spec.get("dnsPolicy") != "None"
        if looks_up and (why := _shut_out(pod, _NAMES, _Ports(53, 53, "UDP"), overlay, not_checked)):
            yield pod.manifest.problem(pod.path, f"{why}: it finds nobody by name")
    for manifest in overlay.manifests:
        yield from _of_a_ray_cluster(manifest, overlay, not_checked)


def _of_a_ray_cluster(manifest: Manifest, overlay: Overlay, not_checked: Counter[str]) -> Iterator[Problem]:
    """Its nodes talk to one another at all ports, and who submits to the head at one."""
    pods = list(pods_of(manifest))
    nodes = [pod for pod in pods if pod.ray_role]
    ways = [(a, b, _EVERY_PORT) for a, b in product(nodes, nodes) if a is not b or a.count > 1]
    heads = [pod for pod in nodes if pod.ray_role == "head"]
    ways += [(pod, head, _Ports(_JOBS_PORT, _JOBS_PORT)) for pod in pods if not pod.ray_role for head in heads]
    for here, there, ports in ways:
        if why := _shut_out(here, there, ports, overlay, not_checked):
            yield manifest.problem(here.path, why)


def _named_by(pod: Pod, overlay: Overlay) -> Iterator[Address]:
    """By its own text, by the ConfigMaps that it is given, and by what KubeRay tells a head."""
    here = pod.manifest.namespace
    yield from addresses_in({f"{pod.path}.spec": pod.spec}, here, overlay)
    for name in sorted(_config_maps(pod)):
        if found := overlay.find("ConfigMap", name, here):
            for address in addresses_in(found.body.get("data", {}), here, overlay):
                yield replace(address, path=f"{pod.path} (ConfigMap {name}: {address.path})")
    if pod.ray_role == "head":
        ray_cluster = pod.path.removesuffix(".headGroupSpec.template")
        holders = {"spec": pod.manifest.spec, ray_cluster: pod.ray_cluster}  # which are one for a RayCluster
        for where, holder in holders.items():
            told = {f"{where}.{key}": holder[key] for key in _BESIDE_PODS if key in holder}
            yield from addresses_in(told, here, overlay)


def _config_maps(pod: Pod) -> set[str]:
    volumes = pod.spec.get("volumes", [])
    sources = [volume.get("configMap") for volume in volumes]
    sources += [s.get("configMap") for volume in volumes for s in volume.get("projected", {}).get("sources", [])]
    for container in pod.containers:
        sources += [source.get("configMapRef") for source in container.get("envFrom", [])]
        sources += [each.get("valueFrom", {}).get("configMapKeyRef") for each in container.get("env", [])]
    return {source["name"] for source in sources if source}


def _shut_out(here: Pod, there: Pod, ports: _Ports, overlay: Overlay, not_checked: Counter[str]) -> str | None:
    """Why one pod does not reach the other; None where it does, or nobody can tell."""
    for pod, other, direction in ((there, here, "Ingress"), (here, there, "Egress")):
        policies = [p for p in overlay.of_kind("NetworkPolicy") if _is_for(p, pod, direction)]
        peers = [peer for p in policies for peer in _peers(p, direction, ports, there)]
        if not policies or any(_is_peer(policy, peer, other, overlay) for policy, peer in peers):
            continue
        if any("ipBlock" in peer for _, peer in peers):
            not_checked[f"whether {_name(here)} reaches {_name(there)}: policies by addresses (ipBlock)"] += 1
            continue
        names = ", ".join(policy.name for policy in policies)
        if direction == "Ingress":
            return f"no NetworkPolicy of {_name(there)} ({names}) lets {_name(here)} in at {ports}"
        return f"no NetworkPolicy of {_name(here)} ({names}) lets it out to {_name(there)} at {ports}"
    return None


def _is_for(policy: Manifest, pod: Pod, direction: str) -> bool:
    spec = policy.spec
    directions = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    here = policy.namespace == pod.manifest.namespace
    return here and direction in directions and selects(spec.get("podSelector", {}), pod.labels)


def _peers(
    policy: Manifest, direction: str, ports: _Ports, target: Pod
) -> Iterator[tuple[Manifest, Mapping[str, Any]]]:
    """Whom the rules for those ports let in or out; a rule that names nobody means all."""
    rules, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    for rule in policy.spec.get(rules, []):
        entries = rule.get("ports", [])
        if not entries or any(_covers(entry, ports, target) for entry in entries):
            for peer in rule.get(peers) or [{"namespaceSelector": {}}]:
                yield policy, peer


def _is_peer(policy: Manifest, peer: Mapping[str, Any], other: Pod, overlay: Overlay) -> bool:
    namespace = other.manifest.namespace
    if "ipBlock" in peer:  # of addresses that nobody knows before the pods are there
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], overlay.labels_of(namespace)):
            return False
    elif namespace != policy.namespace:
        return False
    return selects(peer.get("podSelector", {}), other.labels)


def _covers(entry: Mapping[str, Any], ports: _Ports, target: Pod) -> bool:
    if entry.get("protocol", "TCP") != ports.protocol:
        return False
    if "port" not in entry:
        return True
    first = _number(entry["port"], target)
    if isinstance(first, int) and isinstance(ports.first, int) and isinstance(ports.last, int):
        return first <= ports.first and ports.last <= entry.get("endPort", first)
    return ports.first == ports.last == first


def _number(port: int | str, pod: Pod) -> int | str:
    """Of a port that may be a name of the pod's."""
    named = {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", []) if "name" in p}
    return named.get(port, port) if isinstance(port, str) else port


def _name(pod: Pod) -> str:
    if pod.ray_role:
        return f"the {pod.ray_role} of {pod.manifest.name}"
    return f"the pod of {pod.manifest.kind} {pod.manifest.name}"
