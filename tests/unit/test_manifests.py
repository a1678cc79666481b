"""Manifests as they are pass; with a mistake in them they do not, and it is said where and why."""

import copy
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.validation.manifests import OVERLAYS, Manifest, Overlay, open_overlay, overlay_names
from cluster.validation.schemas import open_schemas
from cluster.validation.validate import validate
from rayapp.cli.manifests import READERS
from rayapp.errors import UserError

pytestmark = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")), reason="neither kubectl nor kustomize is here"
)


@pytest.fixture(scope="module")
def schemas():
    folder = os.environ.get("RAYAPP_CRDS")
    return open_schemas(Path(folder) if folder else None)


@pytest.fixture(scope="module")
def no_schemas():
    return open_schemas(None)


@pytest.fixture(scope="module")
def production():
    return open_overlay("eks-prod")


@pytest.mark.parametrize("name", overlay_names())
def test_every_overlay_passes(name, schemas):
    verdict = validate(open_overlay(name), schemas, READERS)
    assert verdict.objects > 40
    assert list(map(str, verdict.problems)) == []


def changed(overlay, **change):
    """The overlay with a change in one object; see `mistakes.yaml`."""
    kind, name = change["in"].split()
    manifests = [Manifest(m.part, copy.deepcopy(m.body)) for m in overlay.manifests]
    (value,) = (m.body for m in manifests if (m.kind, m.name, m.namespace) == (kind, name, m.namespace))
    *way, last = [int(key) if key.isdigit() else key for key in change["at"].split(".")]
    for key in way:
        value = value[key]
    if "replace" in change:
        assert change["replace"] in value[last]
        value[last] = value[last].replace(change["replace"], change["by"])
    elif change["set"] is None:
        del value[last]
    else:
        value[last] = change["set"]
    return dataclasses.replace(overlay, manifests=manifests)


MISTAKES = yaml.safe_load((Path(__file__).parent / "mistakes.yaml").read_text())


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_refused_with_where_and_why(production, no_schemas, mistake):
    told = told_of(changed(production, **mistake["change"]), no_schemas)
    assert any(mistake["where"] in problem and re.search(mistake["why"], problem) for problem in told), told
    assert all(problem.startswith("eks-prod/") for problem in told)


@pytest.mark.parametrize(
    ("where", "at", "value", "why"),
    [
        ("RayJob training", "spec.shutdownAfterJobFinish", True, "shutdownAfterJobFinish"),
        ("RayService serving", "spec.upgradeStrategy.typ", "None", "typ"),
        ("NodePool p4d", "spec.disruption.consolidationPolicy", "WhenIdle", "WhenIdle"),
        ("EC2NodeClass p4d", "spec.role", None, "role"),
        ("ClusterQueue training", "spec.resourceGroups.0.coveredResources", ["cpu"], "resources"),
        ("PodMonitor ray-heads", "spec.podMetricsEndpoint", [], "podMetricsEndpoint"),
    ],
)
def test_what_a_crd_does_not_know_is_refused(production, schemas, where, at, value, why):
    if not schemas.crds:
        pytest.skip("RAYAPP_CRDS names no folder of CustomResourceDefinitions")
    problems = validate(changed(production, **{"in": where, "at": at, "set": value}), schemas, READERS).problems
    assert any(where in problem.where and re.search(why, str(problem)) for problem in problems)


@pytest.mark.parametrize(
    ("where", "at", "value"),
    [
        ("RayJob training", "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.resources.requests", {}),
        ("RayService serving", "spec.rayClusterConfig.workerGroupSpecs.0.template.metadata.annotations", {}),
        ("NodePool cpu", "spec.template.spec.requirements.1.operator", "NotIn"),
        ("Deployment mlflow", "metadata.labels", {}),
        ("Deployment gateway", "spec.template.spec.containers.0.resources.requests.cpu", "1e3m"),
        ("NetworkPolicy ray-training", "spec.egress", []),
        ("NetworkPolicy ray-training", "spec.ingress.0.ports", [{"port": 1, "endPort": 65535}]),
        ("NetworkPolicy ray-training", "spec.ingress.0.ports", [{"protocol": "TCP"}]),
        ("NetworkPolicy to-mlflow", "spec.ingress.0.from", [{"ipBlock": {"cidr": "10.0.0.0/16"}}]),
        ("NetworkPolicy ray-development", "spec.podSelector.matchLabels", {"ray.io/cluster": "development"}),
        ("NetworkPolicy ray-synthesis", "spec.ingress.0.from.0.podSelector.matchLabels", {"ray.io/is-ray-node": "yes"}),
        ("NetworkPolicy deny-all-ingress", "spec", {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}),
        (
            "RayJob training",
            "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.env.0.value",
            "http://mlflow.rayapp.svc:5000",
        ),
        ("Deployment mlflow", "spec.template.spec.containers.0.env.0.value", "https://mlflow.example.com:5001"),
        ("ClusterQueue training", "spec.resourceGroups.0.flavors.0.resources.0.nominalQuota", "720"),
        ("RayJob synthesis", "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", None),
        ("RayCluster development", "spec.headGroupSpec.template.spec.nodeSelector", {"nodegroup": "system"}),
        ("RayJob training", "spec.rayClusterSpec.workerGroupSpecs.0.replicas", None),
        (
            "RayJob training",
            "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.resources.requests",
            {"cpu": "90", "memory": "1024000Mi", "nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": "4"},
        ),
        ("PodMonitor ray-workers", "spec.podMetricsEndpoints", [{"portNumber": 8080}, {"targetPort": "metrics"}]),
        (
            "Deployment mlflow",
            "spec.template.spec.containers.0.envFrom",
            [{"secretRef": {"name": "a", "optional": True}}, {"configMapRef": {"name": "a", "optional": True}}],
        ),
        ("Deployment mlflow", "spec.template.spec.imagePullSecrets", [{"name": "serving-redis"}]),
        ("RayJob training", "spec.entrypoint", "python -m rayapp.cli train /app/configs/train-parakeet.yaml"),
        ("RayJob training", "spec.entrypoint", "python -m rayapp.cli train /fsx/configs/train.yaml"),
    ],
)
def test_what_is_odd_and_good_is_let_be(production, no_schemas, where, at, value):
    change = {"in": where, "at": at, "set": value}
    assert told_of(changed(production, **change), no_schemas) == []


def told_of(overlay, schemas):
    return list(map(str, validate(overlay, schemas, READERS).problems))


def test_an_object_in_two_parts_is_told_with_both(production, no_schemas):
    (mlflow,) = (m for m in production.of_kind("Service") if m.name == "mlflow")
    other = Manifest("eks-prod/serving", {**mlflow.body, "spec": {**mlflow.spec, "type": "NodePort"}})
    same = Manifest("eks-prod/training", mlflow.body)
    twice = [*production.manifests, other, same]
    told = told_of(Overlay(production.name, twice, production.expected), no_schemas)
    assert [p.partition(": ")[0] for p in told] == ["eks-prod/serving"]
    assert "is in eks-prod/platform, too" in told[0]


def test_all_applications_of_a_service_need_their_gpus(production, no_schemas):
    (serving,) = production.of_kind("RayService")
    config = yaml.safe_load(serving.spec["serveConfigV2"])
    first = config["applications"][0]
    config["applications"] += [{**first, "name": n, "route_prefix": f"/{n}"} for n in ("second", "third")]
    told = told_of(
        changed(production, **{"in": "RayService serving", "at": "spec.serveConfigV2", "set": yaml.safe_dump(config)}),
        no_schemas,
    )
    assert any("ask for 15 GPUs of type L40S, and its groups grow to 10" in problem for problem in told), told


WORKERS = "spec.rayClusterSpec.workerGroupSpecs.0.template.spec"


@pytest.mark.parametrize(
    ("at", "value", "field", "why"),
    [
        (f"{WORKERS}.nodeSelector", {"nvidia.com/gpu.product": "NVIDIA-H100"}, "nodeSelector", "=NVIDIA-H100"),
        (f"{WORKERS}.tolerations", None, "tolerations", "does not tolerate: nvidia.com/gpu:NoSchedule"),
        (
            f"{WORKERS}.containers.0.resources.requests.cpu",
            "64",
            "containers.resources",
            r"asks for CPUs 64, .* has it \(gpu-1: CPUs 63\.4",
        ),
    ],
)
def test_what_no_node_of_a_hospital_takes_is_refused(no_schemas, at, value, field, why):
    hospital = open_overlay("airgapped")
    told = told_of(changed(hospital, **{"in": "RayJob training", "at": at, "set": value}), no_schemas)
    assert any(f".template.spec.{field}: " in problem and re.search(why, problem) for problem in told), told
    assert all(problem.startswith("airgapped/training: RayJob training: ") for problem in told)


def test_a_container_may_say_for_itself_that_it_is_nobody(production, no_schemas):
    own = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    spec = "spec.template.spec"
    overlay = changed(
        production, **{"in": "Deployment mlflow", "at": f"{spec}.containers.0.securityContext", "set": own}
    )
    overlay = changed(overlay, **{"in": "Deployment mlflow", "at": f"{spec}.securityContext", "set": {}})
    assert told_of(overlay, no_schemas) == []


def test_a_database_may_be_elsewhere(production, no_schemas):
    elsewhere = {"type": "ExternalName", "externalName": "rayapp.rds.example.com"}
    overlay = changed(production, **{"in": "Service postgres", "at": "spec", "set": elsewhere})
    assert told_of(overlay, no_schemas) == []


def test_a_key_of_null_is_a_key_that_is_not_there(tmp_path, no_schemas):
    pod = {"containers": [{"name": "a", "image": "a:1", "env": None, "envFrom": None, "resources": None}]}
    pod |= {"volumes": None, "initContainers": None, "securityContext": None}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": pod}
    specs = {
        ("v1", "Service"): {"type": "ExternalName", "externalName": "a.example.com", "ports": None},
        ("apps/v1", "Deployment"): {"selector": {"matchLabels": {"app": "a"}}, "template": template},
    }
    objects = [
        {"apiVersion": version, "kind": kind, "metadata": {"name": "a", "labels": None}, "spec": spec}
        for (version, kind), spec in specs.items()
    ]
    (tmp_path / "part").mkdir()
    (tmp_path / "part/objects.yaml").write_text(yaml.safe_dump_all(objects))
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    kustomization["resources"] = ["objects.yaml"]
    (tmp_path / "part/kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    assert told_of(open_overlay(str(tmp_path)), no_schemas) == []


def test_the_command_says_where_in_full(tmp_path):
    shutil.copytree(OVERLAYS.parent, tmp_path / "manifests")
    pools = tmp_path / "manifests/components/eks/kustomization.yaml"
    pools.write_text(
        pools.read_text().replace("value: {karpenter.sh/nodepool: p4d}", "value: {karpenter.sh/nodepool: p5}")
    )
    words = ["cluster", "validate", "--json", str(tmp_path / "manifests/overlays/eks-prod")]
    done = subprocess.run(
        [sys.executable, "-m", "rayapp.cli", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    said = "nodeSelector[karpenter.sh/nodepool]: 'p5' is no pool"
    assert said in done.stderr
    (verdict,) = json.loads(done.stdout).values()
    assert any(said in f"{problem['where']}: {problem['what']}" for problem in verdict["problems"])


def test_without_crds_it_says_what_was_not_checked(production, no_schemas):
    assert any("RayJob" in what for what in validate(production, no_schemas, READERS).not_checked)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- a", "does not list nodes as .* does: .*TypeError"),
        ("items: [{metadata: {name: a}}]", "does not list nodes as .* does: .*KeyError: 'status'"),
        ("items: [{metadata: {name: a}, status: {allocatable: {cpu: many, memory: 1Gi}}}]", "'many' is no quantity"),
    ],
)
def test_a_list_of_nodes_that_is_none_is_said(tmp_path, text, why):
    shutil.copytree(OVERLAYS.parent, tmp_path / "manifests")
    overlay = tmp_path / "manifests/overlays/local"
    (overlay / "nodes.yaml").write_text(text)
    with pytest.raises(UserError, match=why):
        open_overlay(str(overlay))


def test_a_patch_that_fits_nowhere_is_said(tmp_path):
    shutil.copytree(OVERLAYS.parent, tmp_path / "manifests")
    overlay = tmp_path / "manifests/overlays/local"
    file = overlay / "serving/kustomization.yaml"
    file.write_text(file.read_text().replace("workerGroupSpecs/0", "workerGroupSpecs/7"))
    with pytest.raises(UserError, match=r"local/serving cannot be rendered: .*workerGroupSpecs"):
        open_overlay(str(overlay))


def test_an_overlay_that_is_not_known_is_said_with_those_that_are():
    with pytest.raises(UserError, match="no overlay 'eks-production'; known: airgapped, eks-dev, eks-prod, local"):
        open_overlay("eks-production")


def test_what_the_cluster_has_already_is_let_be(production, no_schemas):
    volumes = [{"name": "tls", "secret": {"secretName": "tls"}}, {"name": "ca", "configMap": {"name": "ca"}}]
    change = {"in": "Deployment gateway", "at": "spec.template.spec.volumes"}
    (gateway,) = (m for m in production.of_kind("Deployment") if m.name == "gateway")
    overlay = changed(production, **change, set=[*gateway.spec["template"]["spec"]["volumes"], *volumes])
    told = told_of(overlay, no_schemas)
    assert len(told) == 2
    assert all("say in its expected.yaml if the cluster has it" in problem for problem in told)
    expected = dataclasses.replace(overlay, expected={"Secret": ["tls"], "ConfigMap": ["ca"]})
    assert told_of(expected, no_schemas) == []


def test_a_monitor_may_look_into_other_namespaces(production, no_schemas):
    monitor = next(m for m in production.of_kind("PodMonitor") if m.name == "ray-heads")
    metadata = {**monitor.body["metadata"], "namespace": "monitoring"}

    def told(namespaces):
        spec = {**monitor.spec, "namespaceSelector": {"matchNames": namespaces}}
        moved = Manifest(monitor.part, {**monitor.body, "metadata": metadata, "spec": spec})
        return told_of(dataclasses.replace(production, manifests=[*production.manifests, moved]), no_schemas)

    assert told(["rayapp"]) == []
    assert "no pod of this overlay has ray.io/node-type=head" in told(["elsewhere"])[0]


@pytest.mark.parametrize(
    ("source", "mount", "path"),
    [
        ({}, {"mountPath": "/etc/x"}, "/etc/x/train.yaml"),
        ({}, {"mountPath": "/etc/x.yaml", "subPath": "train.yaml"}, "/etc/x.yaml"),
        ({"items": [{"key": "train.yaml", "path": "y.yaml"}]}, {"mountPath": "/etc/x"}, "/etc/x/y.yaml"),
    ],
)
def test_settings_are_found_however_a_configmap_is_mounted(production, no_schemas, source, mount, path):
    training = next(m for m in production.of_kind("RayJob") if m.name == "training")
    head = "spec.rayClusterSpec.headGroupSpec.template.spec"
    volumes = copy.deepcopy(training.spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"])
    next(volume for volume in volumes if volume["name"] == "settings")["configMap"] |= source
    overlay = changed(production, **{"in": "RayJob training", "at": f"{head}.volumes", "set": volumes})
    mounts = [{"name": "shared", "mountPath": "/fsx"}, {"name": "settings", **mount}]
    overlay = changed(overlay, **{"in": "RayJob training", "at": f"{head}.containers.0.volumeMounts", "set": mounts})
    right, wrong = (
        told_of(changed(overlay, **{"in": "RayJob training", "at": "spec.entrypoint", "set": entrypoint}), no_schemas)
        for entrypoint in (f"python -m rayapp.cli train {path}", f"python -m rayapp.cli train {path} --set epoch=3")
    )
    assert right == []
    assert "unknown key epoch" in wrong[0]
