"""Names that addresses may have: Services of the overlay, and those that KubeRay makes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.validation.manifests import Manifest, Overlay, Pod, pods_of, selects
from rayapp.nested import texts_in

_URL = re.compile(r"\b[a-z][a-z0-9+]*://(?:[^@/\s\"']*@)?([a-z][a-z0-9-]*)(\.[a-z0-9.-]+)?:(\d+)")
_HEAD_PORTS: dict[int, str | int] = {6379: 6379, 8265: 8265, 10001: 10001}
_SERVE_PORTS: dict[int, str | int] = {8000: 8000}
_REDIS = "gcsFaultToleranceOptions.redisAddress"
_IN_A_NAMESPACE = re.compile(r"\.([a-z0-9-]+)(\.svc(?:\.cluster\.local)?)?\.?")
"""What stands behind the name of a Service in another namespace, or in its own, where somebody writes it out."""


@dataclass(frozen=True)
class Address:
    """Of a Service, as a text has it."""

    path: str
    """Where the text is."""
    name: str
    namespace: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Service:
    """A name in a namespace, and who answers to it."""

    name: str
    namespace: str
    ports: Mapping[int, str | int]
    """Port of the Service → port of its pods."""
    pods: Sequence[Pod]
    elsewhere: bool = False
    """A server outside, whose ports are its own affair."""


def services_of(overlay: Overlay) -> dict[tuple[str, str], Service]:
    """By namespace and name."""
    found = [_of_a_manifest(manifest, overlay) for manifest in overlay.of_kind("Service")]
    for manifest in overlay.of_kind("RayCluster", "RayService"):
        pods = list(pods_of(manifest))
        heads = [pod for pod in pods if pod.ray_role == "head"]
        found.append(Service(f"{manifest.name}-head-svc", manifest.namespace, _HEAD_PORTS, heads))
        if manifest.kind == "RayService":
            found.append(Service(f"{manifest.name}-serve-svc", manifest.namespace, _SERVE_PORTS, pods))
    return {(service.namespace, service.name): service for service in found}


def addresses_in(value: Any, here: str, overlay: Overlay) -> Iterator[Address]:
    """All that names a Service: `NAME:PORT` in the reader's own namespace, `NAME.NAMESPACE.svc:PORT` in any.

    here: the namespace of those who read it.
    """
    for path, text in texts_in(value):
        url = f"redis://{text}" if path.endswith(_REDIS) and "://" not in text else text
        for host, domain, port in _URL.findall(url):
            namespace = _namespace(domain, overlay) if domain else here
            if namespace and host != "localhost":
                yield Address(path, host, namespace, int(port))


def _namespace(domain: str, overlay: Overlay) -> str | None:
    """None for hosts of the world outside; without `.svc`, those of namespaces that the overlay does not know."""
    found = _IN_A_NAMESPACE.fullmatch(domain)
    ours = {manifest.namespace for manifest in overlay.manifests}
    return found[1] if found and (found[2] or found[1] in ours) else None


def _of_a_manifest(manifest: Manifest, overlay: Overlay) -> Service:
    spec = manifest.spec
    ports = {port["port"]: port.get("targetPort", port["port"]) for port in spec.get("ports", [])}
    pods: list[Pod] = []
    if labels := spec.get("selector"):
        here = (pod for pod in overlay.pods() if pod.manifest.namespace == manifest.namespace)
        pods = [pod for pod in here if selects({"matchLabels": labels}, pod.labels)]
    return Service(manifest.name, manifest.namespace, ports, pods, spec.get("type") == "ExternalName")
