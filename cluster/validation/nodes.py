"""Whether there are nodes for the pods, and GPUs for the programs.

By Karpenter's pools or by the nodes that are there, and by what Ray's autoscaler makes of a group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cluster.validation.manifests import UNBOUNDED, Manifest, Overlay, Pod, Problem, pods_of, selects
from cluster.validation.programs import Program
from cluster.validation.quantities import amount
from rayapp.gpus import GpuDemand, gpu_demands

_GPU = "nvidia.com/gpu"
_EFA = "vpc.amazonaws.com/efa"
_POOL = "karpenter.sh/nodepool"
_STAYS = "karpenter.sh/do-not-disrupt"
_INSTANCE_TYPE = "node.kubernetes.io/instance-type"
_PRODUCT = "nvidia.com/gpu.product"
"""A label of nodes, from NVIDIA's device plugin, such as `NVIDIA-A100-SXM4-40GB`."""
_LUSTRE = "fsx.csi.aws.com"
_TYPE = "accelerator_type:"
_SYSTEM_CPUS = 0.5
_SYSTEM_BYTES = 2**30
"""Of the daemons of a node: network, storage, devices, metrics."""
_MEMORY_OVERHEAD = 0.075
"""Karpenter's `vmMemoryOverheadPercent`: what a virtual machine lacks of what its type promises."""
_EVICTION_BYTES = 100 * 2**20
_UNBOUNDED_PODS = 737
"""As many as a p4d.24xlarge has addresses for; without `maxPods`, kubelet sets memory aside for them."""


@dataclass(frozen=True)
class InstanceType:
    """As Amazon lists it."""

    cpus: int
    gibibytes: int
    gpus: int = 0
    gpu_type: str | None = None
    """Ray's name of it."""
    efa: int = 0

    def allocatable(self, max_pods: int) -> dict[str, float]:
        """What pods can have: memory by Karpenter's estimate, kubelet's reserve as the EKS AMIs compute it.

        >>> p4d = INSTANCE_TYPES["p4d.24xlarge"].allocatable(737)
        >>> round(p4d["cpu"], 3), round(p4d["memory"] / 2**20)
        (95.69, 1082712)
        """
        reserved = (255 + 11 * max_pods) * 2**20 + _EVICTION_BYTES
        return {
            "cpu": float(self.cpus) - _reserved_cpus(self.cpus),
            "memory": self.gibibytes * 2**30 * (1 - _MEMORY_OVERHEAD) - reserved,
            _GPU: self.gpus,
            _EFA: self.efa,
        }


INSTANCE_TYPES = {
    "m7i.2xlarge": InstanceType(8, 32),
    "m7i.4xlarge": InstanceType(16, 64),
    "m7i.8xlarge": InstanceType(32, 128),
    "g6e.xlarge": InstanceType(4, 32, 1, "L40S"),
    "g6e.2xlarge": InstanceType(8, 64, 1, "L40S"),
    "g6e.4xlarge": InstanceType(16, 128, 1, "L40S"),
    "g6e.12xlarge": InstanceType(48, 384, 4, "L40S", 1),
    "p4d.24xlarge": InstanceType(96, 1152, 8, "A100", 4),
    "p4de.24xlarge": InstanceType(96, 1152, 8, "A100", 4),
    "p5.48xlarge": InstanceType(192, 2048, 8, "H100", 32),
}


def problems(overlay: Overlay, programs: list[Program], not_checked: Counter[str]) -> Iterator[Problem]:
    pools = {pool.name: pool for pool in overlay.of_kind("NodePool")}
    if pools:
        yield from _of_pools(overlay, pools)
        for pod in overlay.pods():
            if pod.ray_role == "head" and not pod.ray_cluster.get("gcsFaultToleranceOptions"):
                yield from _of_a_lone_head(pod, pools)
            yield from _of_a_pod(pod, overlay, pools, not_checked)
    elif overlay.nodes:
        for pod in overlay.pods():
            yield from _of_a_pod_among(pod, overlay.nodes)
    else:
        not_checked[f"whether pods fit their nodes: {overlay.name} has neither NodePools nor a nodes.yaml"] += 1
    for program in programs:
        yield from _of_a_program(program, overlay, pools)


def _of_pools(overlay: Overlay, pools: Mapping[str, Manifest]) -> Iterator[Problem]:
    for pool in pools.values():
        for name in _instance_types(pool):
            if name not in INSTANCE_TYPES:
                known = ", ".join(INSTANCE_TYPES)
                what = (
                    f"{name}: not in the table of cluster/validation/nodes.py; add what it has, or take one of {known}"
                )
                yield pool.problem("spec.template.spec.requirements", what)
        reference = pool.spec["template"]["spec"]["nodeClassRef"]
        if not any(c.name == reference["name"] for c in overlay.of_kind(reference["kind"])):
            what = f"{reference['kind']} {reference['name']} is nowhere in this overlay"
            yield pool.problem("spec.template.spec.nodeClassRef", what)


def _of_a_lone_head(pod: Pod, pools: Mapping[str, Manifest]) -> Iterator[Problem]:
    selector = pod.spec.get("nodeSelector", {})
    elsewhere = bool(selector) and selector.get(_POOL) not in pools  # on nodes that Karpenter did not make
    if not elsewhere and _annotations(pod).get(_STAYS) != "true":
        what = f'must have {_STAYS}: "true": Karpenter moves pods to save nodes, and all that runs goes with this one'
        yield pod.manifest.problem(f"{pod.path}.metadata.annotations", what)


def _annotations(pod: Pod) -> Mapping[str, str]:
    return (pod.template.get("metadata") or {}).get("annotations") or {}


def _of_a_pod(
    pod: Pod, overlay: Overlay, pools: Mapping[str, Manifest], not_checked: Counter[str]
) -> Iterator[Problem]:
    wanted = pod.spec.get("nodeSelector", {}).get(_POOL)
    asked = {key: float(wanted) for key, wanted in pod.requests.items()}
    if wanted is None:
        if asked.get(_GPU):
            yield pod.problem("nodeSelector", f"asks for a GPU and for no pool: set {_POOL}, one of {', '.join(pools)}")
        elif "nodeSelector" not in pod.spec and (claim := _claim_of_lustre(pod, overlay)):
            what = f"claim {claim} is on FSx, which not every node reaches: set {_POOL}, one of {', '.join(pools)}"
            yield pod.problem("nodeSelector", what)
        return
    if wanted not in pools:
        yield pod.problem(f"nodeSelector[{_POOL}]", f"{wanted!r} is no pool; there are {', '.join(pools)}")
        return
    pool = pools[wanted]
    ends = pool.spec["template"]["spec"].get("terminationGracePeriod")
    if ends and _annotations(pod).get(_STAYS) == "true":
        what = f"{_STAYS} holds for {ends} on nodes of {wanted}, which has a terminationGracePeriod: take it out there"
        yield pod.manifest.problem(f"{pod.path}.metadata.annotations", what)
    for taint in pool.spec["template"]["spec"].get("taints", []):
        if not _tolerated(taint, pod):
            what = f"nodes of {wanted} have the taint {taint['key']}:{taint['effect']}, which the pod does not tolerate"
            yield pod.problem("tolerations", what)
    if not _instance_types(pool):
        not_checked[f"whether pods fit the nodes of {wanted}: it names no instance types"] += 1
        return
    fits = [name for name in _instance_types(pool) if name in INSTANCE_TYPES and _fits(asked, name, pool, overlay)]
    if not fits:
        most = {name: _room(name, pool, overlay) for name in _instance_types(pool) if name in INSTANCE_TYPES}
        room = "; ".join(f"{name}: {_readable(each)}" for name, each in most.items())
        what = f"asks for {_readable(asked)}, and no node of {wanted} has it ({room})"
        yield pod.problem("containers.resources", what)


def _claim_of_lustre(pod: Pod, overlay: Overlay) -> str | None:
    """One that it mounts and that lies on FSx: cluster/terraform lets in Karpenter's nodes, not those of the system."""
    for volume in pod.spec.get("volumes", []):
        name = volume.get("persistentVolumeClaim", {}).get("claimName", "")
        claim = overlay.find("PersistentVolumeClaim", name, pod.manifest.namespace)
        behind = overlay.find("PersistentVolume", claim.spec.get("volumeName", "")) if claim else None
        if behind and behind.spec.get("csi", {}).get("driver") == _LUSTRE:
            return name
    return None


def _of_a_pod_among(pod: Pod, nodes: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """One of those that are there must, empty, have its labels, room for it, and no taint that it does not tolerate."""
    selector = pod.spec.get("nodeSelector", {})
    chosen = [node for node in nodes if selects({"matchLabels": selector}, node["metadata"].get("labels", {}))]
    if not chosen:
        shown = ", ".join(f"{key}={value}" for key, value in selector.items())
        yield pod.problem("nodeSelector", f"no node of nodes.yaml has {shown}")
        return
    open_to_it = [node for node in chosen if all(_tolerated(taint, pod) for taint in _taints(node))]
    if not open_to_it:
        taints = sorted({f"{taint['key']}:{taint['effect']}" for node in chosen for taint in _taints(node)})
        what = f"the nodes of nodes.yaml that it chooses have taints which it does not tolerate: {', '.join(taints)}"
        yield pod.problem("tolerations", what)
        return
    asked = {key: float(wanted) for key, wanted in pod.requests.items()}
    rooms = {node["metadata"]["name"]: _room_of(node) for node in open_to_it}
    if not any(all(each <= room.get(key, 0) for key, each in asked.items()) for room in rooms.values()):
        room = "; ".join(f"{name}: {_readable(each)}" for name, each in rooms.items())
        what = f"asks for {_readable(asked)}, and no node of nodes.yaml that it may go to has it ({room})"
        yield pod.problem("containers.resources", what)


def _of_a_program(program: Program, overlay: Overlay, pools: Mapping[str, Manifest]) -> Iterator[Problem]:
    groups = [pod for pod in pods_of(program.manifest) if pod.ray_role == "worker"]
    try:
        views = [_RayGroup.of(pod, overlay, pools) for pod in groups]
    except ValueError as error:  # in Ray's words
        yield program.manifest.problem("workerGroupSpecs", str(error).replace("\n", " "))
        return
    total: dict[str | None, float] = {}
    for demand in chain.from_iterable(map(gpu_demands, program.settings)):
        if not any(view.can_run(demand) for view in views):
            offered = "; ".join(str(view) for view in views) or "no groups of workers"
            kind = f" of type {demand.gpu_type}" if demand.gpu_type else ""
            what = (
                f"{demand.setting} asks for {demand.gpus:g} GPUs{kind} in one process, which no group has ({offered})"
            )
            yield program.manifest.problem(program.field, what)
        total[demand.gpu_type] = total.get(demand.gpu_type, 0.0) + demand.processes * demand.gpus
    for gpu_type, gpus in total.items():
        of_type = [view for view in views if gpu_type is None or view.gpu_type in (gpu_type, None)]
        there = sum(view.gpus * view.pod.count for view in of_type)
        if gpus > there and any(view.gpus for view in views):
            shown = f"{gpus:g} GPUs{f' of type {gpu_type}' if gpu_type else ''}"
            what = f"its processes ask for {shown}, and its groups grow to {there:g}"
            yield program.manifest.problem(program.field, what)


@dataclass(frozen=True)
class _RayGroup:
    """A group of workers as Ray counts it."""

    pod: Pod
    gpus: float
    gpu_type: str | None
    """None where neither the group nor its nodes tell."""
    scales: bool
    declares_type: bool

    @classmethod
    def of(cls, pod: Pod, overlay: Overlay, pools: Mapping[str, Manifest]) -> _RayGroup:
        from ray.autoscaler._private.kuberay import autoscaling_config

        group = _group_of(pod)
        node_type = autoscaling_config._node_type_from_group_spec(
            {"minReplicas": 0, "maxReplicas": UNBOUNDED, **group}, is_head=False
        )
        resources = node_type["resources"]
        declared = next((name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)), None)
        scales = pod.ray_cluster.get("enableInTreeAutoscaling", False)
        kind = declared or _type_of_nodes(pod.spec.get("nodeSelector", {}), pools)
        return cls(pod, resources.get("GPU", 0), kind, scales, declared is not None)

    def can_run(self, demand: GpuDemand) -> bool:
        if self.gpus < (demand.gpus if demand.gpus < 1 else math.ceil(demand.gpus)):
            return False
        if demand.gpu_type is None:
            return True
        # A group that scales must say its type: the autoscaler knows no node that is not there yet.
        return demand.gpu_type == self.gpu_type and (self.declares_type or not self.scales)

    def __str__(self) -> str:
        name = _group_of(self.pod)["groupName"]
        if not self.gpus:
            return f"{name}: none"
        told = "" if self.declares_type or not self.scales else ', without "accelerator_type:…" in its resources'
        return f"{name}: {self.gpus:g} × {self.gpu_type or 'unknown'}{told}"


def _type_of_nodes(selector: Mapping[str, str], pools: Mapping[str, Manifest]) -> str | None:
    """As Ray will find it there; None where that cannot be told."""
    if product := selector.get(_PRODUCT):
        return product.removeprefix("NVIDIA-").partition("-")[0]
    pool = pools.get(selector.get(_POOL, ""))
    kinds = (
        {INSTANCE_TYPES[name].gpu_type for name in _instance_types(pool) if name in INSTANCE_TYPES} if pool else set()
    )
    return kinds.pop() if len(kinds) == 1 else None


def _group_of(pod: Pod) -> Mapping[str, Any]:
    groups: list[Mapping[str, Any]] = pod.ray_cluster["workerGroupSpecs"]
    return next(group for group in groups if group["template"] is pod.template)


def _fits(asked: Mapping[str, float], instance_type: str, pool: Manifest, overlay: Overlay) -> bool:
    room = _room(instance_type, pool, overlay)
    return all(asked.get(key, 0) <= room[key] for key in room)


def _room(instance_type: str, pool: Manifest, overlay: Overlay) -> dict[str, float]:
    name = pool.spec["template"]["spec"]["nodeClassRef"]["name"]
    classes = [c for c in overlay.of_kind("EC2NodeClass") if c.name == name]
    max_pods = classes[0].spec.get("kubelet", {}).get("maxPods", _UNBOUNDED_PODS) if classes else _UNBOUNDED_PODS
    return _without_daemons(INSTANCE_TYPES[instance_type].allocatable(max_pods))


def _room_of(node: Mapping[str, Any]) -> dict[str, float]:
    return _without_daemons({key: amount(quantity) for key, quantity in node["status"]["allocatable"].items()})


def _without_daemons(room: Mapping[str, float]) -> dict[str, float]:
    return {**room, "cpu": room["cpu"] - _SYSTEM_CPUS, "memory": room["memory"] - _SYSTEM_BYTES}


def _readable(resources: Mapping[str, float]) -> str:
    shown = {"CPUs": resources.get("cpu", 0), "GiB": round(resources.get("memory", 0) / 2**30, 1)}
    devices = {"GPUs": resources.get(_GPU), "EFA devices": resources.get(_EFA)}
    shown |= {name: count for name, count in devices.items() if count}
    return ", ".join(f"{name} {count:g}" for name, count in shown.items())


def _instance_types(pool: Manifest) -> list[str]:
    requirements = pool.spec["template"]["spec"].get("requirements", [])
    return [
        value
        for r in requirements
        if (r["key"], r["operator"]) == (_INSTANCE_TYPE, "In")
        for value in r.get("values", [])
    ]


def _taints(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that keep pods away."""
    taints = node.get("spec", {}).get("taints", [])
    return [taint for taint in taints if taint["effect"] != "PreferNoSchedule"]


def _tolerated(taint: Mapping[str, Any], pod: Pod) -> bool:
    return any(_tolerates(toleration, taint) for toleration in pod.spec.get("tolerations", []))


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect", taint["effect"]) != taint["effect"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key", taint["key"]) == taint["key"]
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")


def _reserved_cpus(cpus: int) -> float:
    """Kubelet's, in CPUs: 6 % of the first, 1 % of the second, 0.5 % of the next two, 0.25 % of the rest."""
    return 0.06 + 0.01 * (cpus > 1) + 0.005 * min(max(cpus - 2, 0), 2) + 0.0025 * max(cpus - 4, 0)
