"""What pod security would refuse when a pod is made, hours after its manifest was applied.

The profile `restricted` of Kubernetes' pod security standards, in the namespaces that enforce it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.validation.manifests import Manifest, Overlay, Pod, Problem, ray_cluster_of

_ENFORCED = "pod-security.kubernetes.io/enforce"
_OF_THE_NODE = ("hostNetwork", "hostPID", "hostIPC")
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_CAPABILITIES = {"NET_BIND_SERVICE"}
_WHERE = "in a restricted namespace"


def problems(overlay: Overlay) -> Iterator[Problem]:
    restricted = {
        m.name
        for m in overlay.of_kind("Namespace")
        if (m.body["metadata"].get("labels") or {}).get(_ENFORCED) == "restricted"
    }
    for pod in overlay.pods():
        if pod.manifest.namespace in restricted:
            yield from _of_a_pod(pod)
    for manifest in overlay.manifests:
        if manifest.namespace in restricted:
            yield from _of_added_containers(manifest)


def _of_a_pod(pod: Pod) -> Iterator[Problem]:
    for name in _OF_THE_NODE:
        if pod.spec.get(name):
            yield pod.problem(name, f"is refused {_WHERE}")
    for number, volume in enumerate(pod.spec.get("volumes", [])):
        for kind in volume.keys() - {"name"} - _VOLUMES:
            what = f"is refused {_WHERE}; take one of {', '.join(sorted(_VOLUMES))}"
            yield pod.problem(f"volumes[{number}].{kind}", what)
    for number, container in enumerate(pod.containers):
        for field, what in _of_a_container(container, pod.spec.get("securityContext") or {}):
            yield pod.problem(f"containers[{number}].{field}", f"{what} {_WHERE}")


def _of_a_container(container: Mapping[str, Any], of_pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    own = container.get("securityContext") or {}
    effective = {**of_pod, **own}
    capabilities = own.get("capabilities") or {}
    if effective.get("runAsNonRoot") is not True:
        yield "securityContext.runAsNonRoot", "must be true, here or for the pod,"
    if effective.get("runAsUser") == 0:
        yield "securityContext.runAsUser", "must not be 0"
    if (effective.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "securityContext.seccompProfile", "must be RuntimeDefault, here or for the pod,"
    if own.get("privileged"):
        yield "securityContext.privileged", "is refused"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation", "must be false"
    if "ALL" not in capabilities.get("drop", []):
        yield "securityContext.capabilities.drop", "must be [ALL]"
    if added := set(capabilities.get("add", [])) - _CAPABILITIES:
        yield "securityContext.capabilities.add", f"must not have {', '.join(sorted(added))}"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "ports", "must not take ports of the node"


def _of_added_containers(manifest: Manifest) -> Iterator[Problem]:
    """Those of KubeRay's, which have no rules of their own."""
    if found := ray_cluster_of(manifest):
        path, cluster = found
        options = cluster.get("autoscalerOptions") or {}
        if cluster.get("enableInTreeAutoscaling") and not _is_bounded(options.get("securityContext") or {}):
            what = f"must have allowPrivilegeEscalation: false and capabilities: {{drop: [ALL]}} {_WHERE}"
            yield manifest.problem(f"{path}.autoscalerOptions.securityContext", what)
    submits = manifest.kind == "RayJob" and manifest.spec.get("submissionMode", "K8sJobMode") == "K8sJobMode"
    if submits and "submitterPodTemplate" not in manifest.spec:
        what = f"is missing: the pod that KubeRay makes without it is refused {_WHERE}"
        yield manifest.problem("spec.submitterPodTemplate", what)


def _is_bounded(context: Mapping[str, Any]) -> bool:
    """The rest is said for it by its pod."""
    dropped = (context.get("capabilities") or {}).get("drop", [])
    return context.get("allowPrivilegeEscalation") is False and "ALL" in dropped
