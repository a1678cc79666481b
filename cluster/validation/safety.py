"""What pod security would refuse when a pod is made, hours after its manifest was applied.

The profile `restricted` of Kubernetes' pod security standards, in the namespaces that enforce it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.validation.manifests import Manifest, Overlay, Pod, Problem

_ENFORCED = "pod-security.kubernetes.io/enforce"
_OF_THE_NODE = ("hostNetwork", "hostPID", "hostIPC")
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_CAPABILITIES = {"NET_BIND_SERVICE"}
_PROFILES = ("RuntimeDefault", "Localhost")
_WHERE = "in a restricted namespace"


def problems(overlay: Overlay, not_checked: Counter[str]) -> Iterator[Problem]:
    for pod in overlay.pods():
        namespace = pod.manifest.namespace
        if not overlay.has("Namespace", namespace):
            not_checked[f"whether pod security takes the pods: namespace {namespace} is not in the overlay"] += 1
        if overlay.labels_of(namespace).get(_ENFORCED) == "restricted":
            yield from _of_a_pod(pod)
            yield from _of_what_kuberay_adds(pod)
    for manifest in overlay.of_kind("RayJob"):
        if overlay.labels_of(manifest.namespace).get(_ENFORCED) == "restricted":
            yield from _of_a_submitter(manifest)


def _of_a_pod(pod: Pod) -> Iterator[Problem]:
    of_pod = pod.spec.get("securityContext", {})
    for name in _OF_THE_NODE:
        if pod.spec.get(name):
            yield pod.problem(name, f"is refused {_WHERE}")
    for number, volume in enumerate(pod.spec.get("volumes", [])):
        for kind in volume.keys() - {"name"} - _VOLUMES:
            what = f"is refused {_WHERE}; take one of {', '.join(sorted(_VOLUMES))}"
            yield pod.problem(f"volumes[{number}].{kind}", what)
    # What the pod says is refused even where each container says otherwise.
    if of_pod.get("runAsUser") == 0:
        yield pod.problem("securityContext.runAsUser", f"must not be 0 {_WHERE}")
    if of_pod.get("runAsNonRoot") is False:
        yield pod.problem("securityContext.runAsNonRoot", f"must not be false {_WHERE}")
    if of_pod.get("seccompProfile", {}).get("type", _PROFILES[0]) not in _PROFILES:
        yield pod.problem("securityContext.seccompProfile", f"must be {' or '.join(_PROFILES)} {_WHERE}")
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(pod.spec.get(kind, [])):
            for field, what in _of_a_container(container, of_pod):
                yield pod.problem(f"{kind}[{number}].{field}", f"{what} {_WHERE}")


def _of_a_container(container: Mapping[str, Any], of_pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    own = container.get("securityContext", {})
    effective = {**of_pod, **own}
    capabilities = own.get("capabilities", {})
    if effective.get("runAsNonRoot") is not True:
        yield "securityContext.runAsNonRoot", "must be true, here or for the pod,"
    if own.get("runAsUser") == 0:
        yield "securityContext.runAsUser", "must not be 0"
    if effective.get("seccompProfile", {}).get("type") not in _PROFILES:
        yield "securityContext.seccompProfile", f"must be {_PROFILES[0]}, here or for the pod,"
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


def _of_what_kuberay_adds(pod: Pod) -> Iterator[Problem]:
    """The autoscaler runs in the head's pod, by what the cluster says for it."""
    if pod.ray_role == "head" and pod.ray_cluster.get("enableInTreeAutoscaling"):
        options = pod.ray_cluster.get("autoscalerOptions", {})
        for field, what in _of_a_container(options, pod.spec.get("securityContext", {})):
            where = pod.path.removesuffix(".headGroupSpec.template")
            yield pod.manifest.problem(f"{where}.autoscalerOptions.{field}", f"{what} {_WHERE}")


def _of_a_submitter(job: Manifest) -> Iterator[Problem]:
    """KubeRay's own has no securityContext."""
    mode = job.spec.get("submissionMode", "K8sJobMode")
    if mode == "K8sJobMode" and "submitterPodTemplate" not in job.spec:
        what = f"is missing: the pod that KubeRay makes without it is refused {_WHERE}"
        yield job.problem("spec.submitterPodTemplate", what)
    if mode == "SidecarMode":
        what = f"{mode}: the container that KubeRay puts beside the head is refused {_WHERE}; take K8sJobMode"
        yield job.problem("spec.submissionMode", what)
