"""What KubeRay refuses, or does otherwise than it looks, and no schema says.

Rules of KubeRay 1.7, from what its operator checks and its documentation tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cluster.validation.manifests import UNBOUNDED, Manifest, Pod, Problem, pods_of, ray_cluster_of
from cluster.validation.quantities import amount, exact
from cluster.validation.queues import QUEUE_LABEL

_LONGEST_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LEAST_HEAD_BYTES = 5 * 2**30
_LEAST_RAY_FOR_TOKENS = (2, 52)
_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
_RESOURCES_IN_PARAMETERS = ("num-cpus", "num-gpus", "memory", "resources")


def problems(manifest: Manifest) -> Iterator[Problem]:
    """Of a RayCluster, RayJob or RayService; of other kinds, none."""
    if manifest.kind not in _LONGEST_NAME:
        return
    yield from _of_its_name(manifest)
    if manifest.kind == "RayJob":
        yield from _of_a_job(manifest)
    if manifest.kind == "RayService":
        yield from _of_a_service(manifest)
    if found := ray_cluster_of(manifest):
        path, cluster = found
        yield from _of_a_cluster(manifest, path, cluster)


def _of_its_name(manifest: Manifest) -> Iterator[Problem]:
    longest = _LONGEST_NAME[manifest.kind]
    if len(manifest.name) > longest:
        what = f"{len(manifest.name)} characters; KubeRay takes {longest}, since its pods' names are longer"
        yield manifest.problem("metadata.name", what)
    if not _DNS_LABEL.fullmatch(manifest.name):
        yield manifest.problem("metadata.name", "must be small letters, digits and dashes, and begin with a letter")


def _of_a_job(manifest: Manifest) -> Iterator[Problem]:
    spec = manifest.spec
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    queued = QUEUE_LABEL in (manifest.body["metadata"].get("labels") or {})
    if spec.get("ttlSecondsAfterFinished", 0) and not shuts_down:
        yield manifest.problem("spec.ttlSecondsAfterFinished", "needs shutdownAfterJobFinishes: true")
    if shuts_down and spec.get("deletionStrategy", {}).get("deletionRules"):
        yield manifest.problem(
            "spec.deletionStrategy.deletionRules", "excludes shutdownAfterJobFinishes; take one of them out"
        )
    if queued and not shuts_down:
        yield manifest.problem("spec.shutdownAfterJobFinishes", "must be true for a job that Kueue queues")
    if queued and spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling"):
        yield manifest.problem(
            "spec.rayClusterSpec.enableInTreeAutoscaling", "Kueue counts a cluster once: set it false"
        )
    if spec.get("suspend") and not queued:
        yield manifest.problem(
            "spec.suspend", f"nobody lets the job go: give it the label {QUEUE_LABEL}, or take it out"
        )
    if "rayClusterSpec" not in spec and "clusterSelector" not in spec:
        yield manifest.problem("spec.rayClusterSpec", "is missing, and no clusterSelector says whose cluster it takes")
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield manifest.problem(
            "spec.submissionMode", "SidecarMode takes neither submitterPodTemplate nor submitterConfig"
        )
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0):
        yield manifest.problem("spec.backoffLimit", f"{spec['backoffLimit']}: InteractiveMode tries once; set 0")
    if mode != "InteractiveMode" and not spec.get("entrypoint"):
        yield manifest.problem("spec.entrypoint", "is missing: there is nothing to run")
    try:
        environment = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}") or {}
    except yaml.YAMLError as error:
        yield manifest.problem("spec.runtimeEnvYAML", f"is not valid YAML: {error}")
        return
    if not isinstance(environment, Mapping):
        yield manifest.problem(
            "spec.runtimeEnvYAML", f"must hold keys and values; it holds a {type(environment).__name__}"
        )
        return
    folder = environment.get("working_dir", "")
    if folder and not re.match(r"(https|s3|gs)://", folder):
        what = f"{folder!r} is a folder of nobody's: give a remote URI, or leave it out and use the image's"
        yield manifest.problem("spec.runtimeEnvYAML.working_dir", what)


def _of_a_service(manifest: Manifest) -> Iterator[Problem]:
    spec = manifest.spec
    strategy = spec.get("upgradeStrategy", {})
    kind = strategy.get("type", "NewCluster")
    if kind not in _UPGRADES:
        yield manifest.problem("spec.upgradeStrategy.type", f"{kind!r}; one of {', '.join(_UPGRADES)}")
    if kind == "NewClusterWithIncrementalUpgrade":
        if not spec.get("rayClusterConfig", {}).get("enableInTreeAutoscaling"):
            yield manifest.problem("spec.upgradeStrategy.type", f"{kind} needs enableInTreeAutoscaling: true")
        if not strategy.get("clusterUpgradeOptions", {}).get("gatewayClassName"):
            yield manifest.problem("spec.upgradeStrategy.clusterUpgradeOptions", f"{kind} needs a gatewayClassName")


def _of_a_cluster(manifest: Manifest, path: str, cluster: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _of_tokens(manifest, path, cluster)
    head, groups = cluster["headGroupSpec"], cluster.get("workerGroupSpecs", [])
    names = [group["groupName"] for group in groups]
    for name in {name for name in names if names.count(name) > 1}:
        yield manifest.problem(f"{path}.workerGroupSpecs", f"two groups are called {name}")
    yield from _of_a_group(manifest, f"{path}.headGroupSpec", head)
    if str(head.get("rayStartParams", {}).get("num-cpus", head.get("resources", {}).get("CPU"))) != "0":
        what = 'must have num-cpus: "0": work that runs on the head takes the cluster down with it'
        yield manifest.problem(f"{path}.headGroupSpec.rayStartParams", what)
    for number, group in enumerate(groups):
        where = f"{path}.workerGroupSpecs[{number}]"
        yield from _of_a_group(manifest, where, group)
        least = group.get("minReplicas", 0)
        if not least <= (replicas := group.get("replicas", least)) <= group.get("maxReplicas", UNBOUNDED):
            what = f"{replicas} is not between minReplicas and maxReplicas"
            yield manifest.problem(f"{where}.replicas", what)
    if cluster.get("enableInTreeAutoscaling"):
        yield from _of_the_autoscaler(manifest, path, cluster)
    if options := cluster.get("gcsFaultToleranceOptions"):
        yield from _of_fault_tolerance(manifest, path, options, head)
    for pod in pods_of(manifest):
        if pod.ray_role:
            yield from _of_a_ray_pod(pod)


def _of_tokens(manifest: Manifest, path: str, cluster: Mapping[str, Any]) -> Iterator[Problem]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        what = "must be token: without it, whoever reaches the dashboard runs what he likes in the cluster"
        yield manifest.problem(f"{path}.authOptions.mode", what)
    version = str(cluster.get("rayVersion", ""))
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < _LEAST_RAY_FOR_TOKENS:
        yield manifest.problem(f"{path}.rayVersion", f"{version!r}: tokens need Ray 2.52 or later")


def _of_a_group(manifest: Manifest, path: str, group: Mapping[str, Any]) -> Iterator[Problem]:
    parameters = group.get("rayStartParams", {})
    if "labels" in parameters:
        yield manifest.problem(f"{path}.rayStartParams.labels", "is not read; say it in the group's own labels")
    both = [name for name in _RESOURCES_IN_PARAMETERS if name in parameters]
    if both and group.get("resources"):
        what = f"is set, and rayStartParams.{both[0]} too; KubeRay takes one of them"
        yield manifest.problem(f"{path}.resources", what)
    for name, value in parameters.items():
        if not isinstance(value, str):
            yield manifest.problem(f"{path}.rayStartParams.{name}", f"{value!r} must be a string: put it in quotes")


def _of_the_autoscaler(manifest: Manifest, path: str, cluster: Mapping[str, Any]) -> Iterator[Problem]:
    if cluster.get("autoscalerOptions", {}).get("version") != "v2":
        yield manifest.problem(f"{path}.autoscalerOptions.version", "must be v2: v1 knows neither labels nor GPU types")
        return
    groups = {"headGroupSpec": cluster["headGroupSpec"]}
    groups |= {f"workerGroupSpecs[{n}]": group for n, group in enumerate(cluster.get("workerGroupSpecs", []))}
    for where, group in groups.items():
        policy = group["template"]["spec"].get("restartPolicy", "Never")
        if policy != "Never":
            what = (
                f"{policy!r}: with autoscaler v2 unset or Never, or a container comes back as a node that nobody knows"
            )
            yield manifest.problem(f"{path}.{where}.template.spec.restartPolicy", what)


def _of_fault_tolerance(
    manifest: Manifest, path: str, options: Mapping[str, Any], head: Mapping[str, Any]
) -> Iterator[Problem]:
    if options.get("backend", "redis") == "redis" and not options.get("redisAddress"):
        yield manifest.problem(f"{path}.gcsFaultToleranceOptions.redisAddress", "is missing")
    if "value" in options.get("redisPassword", {}):
        yield manifest.problem(f"{path}.gcsFaultToleranceOptions.redisPassword", "is in the open; name a Secret")
    names = {variable["name"] for variable in head["template"]["spec"]["containers"][0].get("env", [])}
    for name in names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}:
        what = f"{name} is KubeRay's to set; say it in gcsFaultToleranceOptions"
        yield manifest.problem(f"{path}.headGroupSpec.template.spec.containers[0].env", what)


def _of_a_ray_pod(pod: Pod) -> Iterator[Problem]:
    containers = pod.spec["containers"]
    if not containers[0]["name"].startswith("ray"):
        what = f"{containers[0]['name']}: KubeRay starts Ray in the first container; put that of Ray first"
        yield pod.problem("containers[0].name", what)
    resources = containers[0].get("resources") or {}
    most = resources.get("limits", {})
    asked = {**most, **resources.get("requests", {})}
    for name in ("memory", "nvidia.com/gpu"):
        if exact(asked.get(name, 0)) != exact(most.get(name, 0)):
            what = (
                f"requests {asked.get(name)} and limits {most.get(name)}: Ray counts with the limit, so make them equal"
            )
            yield pod.problem(f"containers[0].resources ({name})", what)
    if "memory" not in most:
        yield pod.problem(
            "containers[0].resources.limits.memory", "is missing: Ray would count the whole node's as its own"
        )
    elif pod.ray_role == "head" and amount(most["memory"]) < _LEAST_HEAD_BYTES:
        what = f"{most['memory']}: a head with less than 5Gi dies"
        yield pod.problem("containers[0].resources.limits.memory", what)
    if any(name.startswith("hugepages") for name in most):
        what = "asks for huge pages, for which Karpenter finds no node; set FI_EFA_USE_HUGE_PAGE=0 instead"
        yield pod.problem("containers[0].resources.limits", what)
