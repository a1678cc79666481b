"""Whether NetworkPolicies let pods reach those whom they name: what is shut out waits, and says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.validation.manifests import Manifest, Overlay, Pod, Problem, pods_of, ray_cluster_of, selects
from cluster.validation.services import addresses_in, services_of

_JOBS_PORT = 8265
_EVERY_PORT = None
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"


def problems(overlay: Overlay) -> Iterator[Problem]:
    services = services_of(overlay)
    for pod in overlay.pods():
        for path, host, port in _named_by(pod, overlay):
            service = services.get((pod.manifest.namespace, host))
            if service is None or port not in service.ports:  # told by `references`
                continue
            for target in service.pods:
                if why := _shut_out(pod, target, _number(service.ports[port], target), overlay):
                    yield pod.problem(path, f"{host}:{port}: {why}")
    for manifest in overlay.manifests:
        yield from _of_a_ray_cluster(manifest, overlay)


def _of_a_ray_cluster(manifest: Manifest, overlay: Overlay) -> Iterator[Problem]:
    pods = list(pods_of(manifest))
    for head in (pod for pod in pods if pod.ray_role == "head"):
        for pod in pods:
            ways: list[tuple[Pod, Pod, int | None]]
            if pod.ray_role is None:
                ways = [(pod, head, _JOBS_PORT)]
            else:
                ways = [(pod, head, _EVERY_PORT), (head, pod, _EVERY_PORT)] if pod is not head else []
            for here, there, port in ways:
                if why := _shut_out(here, there, port, overlay):
                    yield manifest.problem(pod.path, why)


def _named_by(pod: Pod, overlay: Overlay) -> Iterator[tuple[str, str, int]]:
    """By its own text, by the ConfigMaps that it is given, and by what KubeRay tells a head."""
    yield from addresses_in(pod.spec)
    maps = {m.name: m for m in overlay.of_kind("ConfigMap") if m.namespace == pod.manifest.namespace}
    mounted = {volume.get("configMap", {}).get("name") for volume in pod.spec.get("volumes", [])}
    given = {source.get("configMapRef", {}).get("name") for c in pod.containers for source in c.get("envFrom", [])}
    for name in sorted((mounted | given) & maps.keys()):
        for path, host, port in addresses_in(maps[name].body.get("data") or {}):
            yield f"(ConfigMap {name}).{path}", host, port
    if pod.ray_role == "head" and (found := ray_cluster_of(pod.manifest)):
        yield from addresses_in({"gcsFaultToleranceOptions": found[1].get("gcsFaultToleranceOptions") or {}})


def _shut_out(here: Pod, there: Pod, port: int | str | None, overlay: Overlay) -> str | None:
    """Why one pod does not reach the other's port; None where it does."""
    for pod, other, direction in ((there, here, "Ingress"), (here, there, "Egress")):
        policies = [p for p in overlay.of_kind("NetworkPolicy") if _is_for(p, pod, direction)]
        if policies and not any(_admits(p, direction, other, there, port, overlay) for p in policies):
            names = ", ".join(policy.name for policy in policies)
            at = "every port" if port is None else f"port {port}"
            if direction == "Ingress":
                return f"no NetworkPolicy of {_name(there)} ({names}) lets {_name(here)} in at {at}"
            return f"no NetworkPolicy of {_name(here)} ({names}) lets it out to {_name(there)} at {at}"
    return None


def _is_for(policy: Manifest, pod: Pod, direction: str) -> bool:
    spec = policy.spec
    directions = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    here = policy.namespace == pod.manifest.namespace
    return here and direction in directions and selects(spec.get("podSelector") or {}, pod.labels)


def _admits(
    policy: Manifest, direction: str, other: Pod, target: Pod, port: int | str | None, overlay: Overlay
) -> bool:
    rules, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return any(
        _has_peer(rule.get(peers) or [], other, policy, overlay) and _has_port(rule.get("ports") or [], port, target)
        for rule in policy.spec.get(rules) or []
    )


def _has_peer(peers: list[Mapping[str, Any]], other: Pod, policy: Manifest, overlay: Overlay) -> bool:
    return not peers or any(_is_peer(peer, other, policy, overlay) for peer in peers)


def _is_peer(peer: Mapping[str, Any], other: Pod, policy: Manifest, overlay: Overlay) -> bool:
    if "ipBlock" in peer:  # of addresses that nobody knows before the pods are there
        return False
    namespace = other.manifest.namespace
    if "namespaceSelector" in peer:
        own = next(
            (m.body["metadata"].get("labels") or {} for m in overlay.of_kind("Namespace") if m.name == namespace), {}
        )
        if not selects(peer["namespaceSelector"], {_NAME_OF_NAMESPACE: namespace, **own}):
            return False
    elif namespace != policy.namespace:
        return False
    return selects(peer.get("podSelector") or {}, other.labels)


def _has_port(ports: list[Mapping[str, Any]], port: int | str | None, target: Pod) -> bool:
    if not ports:
        return True
    if port is None:
        return False
    return any(_covers(entry, port, target) for entry in ports if entry.get("protocol", "TCP") == "TCP")


def _covers(entry: Mapping[str, Any], port: int | str, target: Pod) -> bool:
    if "port" not in entry:
        return True
    first = _number(entry["port"], target)
    if isinstance(first, int) and isinstance(port, int):
        return first <= port <= entry.get("endPort", first)
    return first == port


def _number(port: int | str, pod: Pod) -> int | str:
    """Of a port that may be a name of the pod's."""
    named = {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", []) if "name" in p}
    return named.get(port, port) if isinstance(port, str) else port


def _name(pod: Pod) -> str:
    return (
        f"the {pod.ray_role} of {pod.manifest.name}"
        if pod.ray_role
        else f"the pod of {pod.manifest.kind} {pod.manifest.name}"
    )
