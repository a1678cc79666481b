"""Whether Kueue would ever let a job go: its queue is there, and has as much as the job asks for at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from cluster.validation.manifests import Manifest, Overlay, Pod, Problem, pods_of, selects
from cluster.validation.quantities import exact

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Of an object that a queue lets go."""
_PODS = "pods"
"""Counted by Kueue itself, in queues that have a quota of them; nobody asks for them."""


def problems(overlay: Overlay, not_checked: Counter[str]) -> Iterator[Problem]:
    for queue in overlay.of_kind("ClusterQueue"):
        if "namespaceSelector" not in queue.spec:
            yield queue.problem("spec.namespaceSelector", "is missing: it lets nobody in; {} is for every namespace")
        yield from _of_a_stopped(queue)
        for name in {flavor["name"] for group in _groups(queue) for flavor in group["flavors"]}:
            if not overlay.has("ResourceFlavor", name):
                yield queue.problem("spec.resourceGroups", f"ResourceFlavor {name} is nowhere in this overlay")
    for local in overlay.of_kind("LocalQueue"):
        if not overlay.has("ClusterQueue", local.spec.get("clusterQueue", "")):
            yield local.problem("spec.clusterQueue", f"{local.spec.get('clusterQueue')} is nowhere in this overlay")
        yield from _of_a_stopped(local)
    for manifest in overlay.manifests:
        if name := (manifest.body["metadata"].get("labels") or {}).get(QUEUE_LABEL):
            yield from _of_a_job(manifest, name, overlay, not_checked)


def _of_a_stopped(queue: Manifest) -> Iterator[Problem]:
    if (policy := queue.spec.get("stopPolicy", "None")) != "None":
        yield queue.problem("spec.stopPolicy", f"{policy} lets no job go; take it out, or set None")


def _of_a_job(manifest: Manifest, name: str, overlay: Overlay, not_checked: Counter[str]) -> Iterator[Problem]:
    where = f"metadata.labels[{QUEUE_LABEL}]"
    if not overlay.has("LocalQueue", name, manifest.namespace):
        yield manifest.problem(where, f"LocalQueue {name} is nowhere in this overlay")
        return
    local = overlay.find("LocalQueue", name, manifest.namespace)
    queue = overlay.find("ClusterQueue", local.spec.get("clusterQueue", "")) if local else None
    if queue is None:
        not_checked[f"whether {manifest.kind} {manifest.name} fits its queue: that is not in the overlay"] += 1
        return
    if queue.spec.get("cohort") or queue.spec.get("cohortName"):
        not_checked[f"whether {manifest.kind} {manifest.name} fits its queue: {queue.name} borrows from others"] += 1
        return
    if not selects(queue.spec.get("namespaceSelector", {}), overlay.labels_of(manifest.namespace)):
        yield manifest.problem(where, f"ClusterQueue {queue.name} does not let in namespace {manifest.namespace}")
    taken: dict[tuple[str, str], Decimal] = {}
    for pod in pods_of(manifest):
        if why := _taken_by(pod, queue, overlay, taken):
            yield manifest.problem(where, why)


def _taken_by(pod: Pod, queue: Manifest, overlay: Overlay, taken: dict[tuple[str, str], Decimal]) -> str | None:
    """Adds to what is taken of each flavor's resources; why the pods would wait for ever, where they would.

    As Kueue does where nothing else runs: of a group's resources all from one flavor, the first that has enough left
    on nodes that the pods may go to.
    """
    wanted = {resource: each * pod.count for resource, each in pod.requests.items()}
    groups = _groups(queue)
    if any(_PODS in group["coveredResources"] for group in groups):
        wanted[_PODS] = Decimal(pod.count)
    for resource in wanted:
        if not any(resource in group["coveredResources"] for group in groups):
            return f"{pod.path} asks for {resource}, which ClusterQueue {queue.name} does not have"
    for group in groups:
        of_group = {resource: wanted[resource] for resource in wanted if resource in group["coveredResources"]}
        on_its_nodes = [flavor for flavor in group["flavors"] if _may_go(pod, flavor["name"], group, overlay)]
        if of_group and not on_its_nodes:
            return f"{pod.path} may go to the nodes of no flavor of ClusterQueue {queue.name}"
        left = {flavor["name"]: _left(flavor, taken) for flavor in on_its_nodes}
        enough = [name for name, has in left.items() if all(has.get(r, 0) >= each for r, each in of_group.items())]
        if of_group and not enough:
            short = "; ".join(
                f"{name} has {_shown(r, has.get(r, Decimal()))} of {_shown(r, each)} {r}"
                for name, has in left.items()
                for r, each in of_group.items()
                if has.get(r, 0) < each
            )
            return f"{pod.path} would wait for ever: of what it asks for, ClusterQueue {queue.name} lacks: {short}"
        for resource, each in of_group.items():
            taken[enough[0], resource] = taken.get((enough[0], resource), Decimal()) + each
    return None


def _groups(queue: Manifest) -> list[Mapping[str, Any]]:
    groups: list[Mapping[str, Any]] = queue.spec.get("resourceGroups", [])
    return groups


def _may_go(pod: Pod, flavor: str, group: Mapping[str, Any], overlay: Overlay) -> bool:
    """By the labels that tell a group's flavors apart; others of the pod's are the scheduler's business."""
    nodes = {each["name"]: _node_labels(each["name"], overlay) for each in group["flavors"]}
    keys = {key for labels in nodes.values() for key in labels}
    wanted = {key: value for key, value in pod.spec.get("nodeSelector", {}).items() if key in keys}
    return selects({"matchLabels": wanted}, nodes[flavor])


def _node_labels(flavor: str, overlay: Overlay) -> Mapping[str, str]:
    found = overlay.find("ResourceFlavor", flavor)
    labels: Mapping[str, str] = found.spec.get("nodeLabels", {}) if found else {}
    return labels


def _left(flavor: Mapping[str, Any], taken: Mapping[tuple[str, str], Decimal]) -> dict[str, Decimal]:
    return {
        each["name"]: exact(each["nominalQuota"]) - taken.get((flavor["name"], each["name"]), Decimal())
        for each in flavor["resources"]
    }


def _shown(resource: str, wanted: Decimal) -> str:
    return f"{wanted / 2**30:.1f} GiB" if "memory" in resource or "storage" in resource else f"{wanted.normalize():f}"
