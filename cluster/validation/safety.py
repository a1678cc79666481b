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
_SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
"""The annotation that was there before the field."""
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS = ("postStart", "preStop")
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
    for field, what in _of_modules(of_pod):
        yield pod.problem(field, f"{what} {_WHERE}")
    for number, sysctl in enumerate(of_pod.get("sysctls", [])):
        if sysctl["name"] not in _SYSCTLS:
            what = f"{sysctl['name']} is refused {_WHERE}; allowed are {', '.join(sorted(_SYSCTLS))}"
            yield pod.problem(f"securityContext.sysctls[{number}]", what)
    for name, profile in ((pod.template.get("metadata") or {}).get("annotations") or {}).items():
        if name.startswith(_APPARMOR) and profile != "runtime/default" and not profile.startswith("localhost/"):
            what = f"{profile} must be runtime/default or localhost/PROFILE {_WHERE}"
            yield pod.manifest.problem(f"{pod.path}.metadata.annotations[{name}]", what)
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
    yield from _of_modules(own)
    if own.get("procMount", "Default") != "Default":
        yield "securityContext.procMount", "must be Default"
    actions = {name: container.get(name, {}) for name in _PROBES}
    actions |= {f"lifecycle.{name}": container.get("lifecycle", {}).get(name, {}) for name in _HOOKS}
    for name, action in actions.items():
        for kind in ("httpGet", "tcpSocket"):
            if host := action.get(kind, {}).get("host"):
                yield f"{name}.{kind}.host", f"{host}: a probe asks its own pod alone"


def _of_modules(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """SELinux and AppArmor, of a pod or a container."""
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in _SELINUX_TYPES:
        yield "securityContext.seLinuxOptions.type", f"must be one of {', '.join(_SELINUX_TYPES[1:])}"
    for name in ("user", "role"):
        if selinux.get(name):
            yield f"securityContext.seLinuxOptions.{name}", "must not be set"
    if context.get("appArmorProfile", {}).get("type", _PROFILES[0]) not in _PROFILES:
        yield "securityContext.appArmorProfile", f"must be {' or '.join(_PROFILES)}"


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
