"""Whether Kueue would ever let a job go: its queue is there, and has as much as the job asks for at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from cluster.validation.manifests import Manifest, Overlay, Pod, Problem, pods_of, selects
from cluster.validation.quantities import amount, requests_of

_LABEL = "kueue.x-k8s.io/queue-name"


def problems(overlay: Overlay, not_checked: Counter[str]) -> Iterator[Problem]:
    flavors = {manifest.name: manifest for manifest in overlay.of_kind("ResourceFlavor")}
    queues = {manifest.name: manifest for manifest in overlay.of_kind("ClusterQueue")}
    for queue in queues.values():
        for group in queue.spec.get("resourceGroups", []):
            for flavor in group["flavors"]:
                if flavor["name"] not in flavors:
                    what = f"ResourceFlavor {flavor['name']} is nowhere in this overlay"
                    yield queue.problem("spec.resourceGroups", what)
    for local in overlay.of_kind("LocalQueue"):
        if local.spec["clusterQueue"] not in queues:
            yield local.problem("spec.clusterQueue", f"{local.spec['clusterQueue']} is nowhere in this overlay")
    for manifest in overlay.manifests:
        if name := (manifest.body["metadata"].get("labels") or {}).get(_LABEL):
            yield from _of_a_job(manifest, name, overlay, queues, flavors, not_checked)


def _of_a_job(
    manifest: Manifest,
    queue_name: str,
    overlay: Overlay,
    queues: Mapping[str, Manifest],
    flavors: Mapping[str, Manifest],
    not_checked: Counter[str],
) -> Iterator[Problem]:
    where = f"metadata.labels[{_LABEL}]"
    local = [m for m in overlay.of_kind("LocalQueue") if (m.name, m.namespace) == (queue_name, manifest.namespace)]
    if not local:
        yield manifest.problem(where, f"LocalQueue {queue_name} is nowhere in this overlay")
        return
    queue = queues.get(local[0].spec["clusterQueue"])
    if queue is None:
        return
    if queue.spec.get("cohort") or queue.spec.get("cohortName"):
        not_checked[f"whether {manifest.kind} {manifest.name} fits: ClusterQueue {queue.name} borrows from others"] += 1
        return
    asked: Counter[tuple[str, str]] = Counter()
    for pod in pods_of(manifest):
        for resource, each in requests_of(pod.spec).items():
            flavor = _flavor(queue, resource, pod, flavors)
            if flavor is None:
                what = f"{pod.path} asks for {resource}, and no flavor of ClusterQueue {queue.name} has it on its nodes"
                yield manifest.problem(where, what)
                return
            asked[flavor, resource] += each * pod.count
    for (flavor, resource), wanted in asked.items():
        quota = _quota(queue, flavor, resource)
        if wanted > quota:
            what = (
                f"asks for {wanted:g} of {resource} at once, and ClusterQueue {queue.name} has {quota:g} of it "
                f"({flavor}): it would wait for ever"
            )
            yield manifest.problem(where, what)


def _flavor(queue: Manifest, resource: str, pod: Pod, flavors: Mapping[str, Manifest]) -> str | None:
    """The first that has the resource on nodes that the pod may go to, as Kueue chooses where nothing is used yet."""
    group = next((g for g in queue.spec.get("resourceGroups", []) if resource in g["coveredResources"]), None)
    names = [flavor["name"] for flavor in group["flavors"]] if group else []
    nodes = {name: flavors[name].spec.get("nodeLabels") or {} for name in names if name in flavors}
    told_apart_by = {key for labels in nodes.values() for key in labels}
    wanted = {key: value for key, value in (pod.spec.get("nodeSelector") or {}).items() if key in told_apart_by}
    return next((name for name, labels in nodes.items() if selects({"matchLabels": wanted}, labels)), None)


def _quota(queue: Manifest, flavor: str, resource: str) -> float:
    return sum(
        amount(entry["nominalQuota"])
        for group in queue.spec["resourceGroups"]
        for of_flavor in group["flavors"]
        if of_flavor["name"] == flavor
        for entry in of_flavor["resources"]
        if entry["name"] == resource
    )
