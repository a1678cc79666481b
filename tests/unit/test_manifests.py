"""Manifests as they are pass; with a mistake in them they do not, and it is said where and why."""

import copy
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from cluster.secrets import SECRETS, draw
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
def production():
    return open_overlay("eks-prod")


@pytest.mark.parametrize("name", overlay_names())
def test_every_overlay_passes(name, schemas):
    verdict = validate(open_overlay(name), schemas, READERS)
    assert verdict.objects > 40
    assert list(map(str, verdict.problems)) == []


def changed(overlay, kind, name, change):
    """The overlay with a change in one object."""
    manifests = []
    for manifest in overlay.manifests:
        body = copy.deepcopy(manifest.body)
        if (manifest.kind, manifest.name) == (kind, name):
            change(body)
        manifests.append(Manifest(manifest.part, body))
    assert [m.body for m in manifests] != [m.body for m in overlay.manifests]
    return Overlay(overlay.name, manifests, overlay.expected)


def at(path, value):
    """A change: sets what is at the path, or removes it for None."""

    def change(body):
        *way, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        for key in way:
            body = body[key]
        if value is None:
            del body[last]
        else:
            body[last] = value

    return change


def in_text(path, old, new):
    def change(body):
        *way, last = path.split("/")
        for key in way:
            body = body[key]
        assert old in body[last]
        body[last] = body[last].replace(old, new)

    return change


TRAINING = ("RayJob", "training")
SYNTHESIS = ("RayJob", "synthesis")
SERVING = ("RayService", "serving")
HEAD = "spec/rayClusterSpec/headGroupSpec"
WORKERS = "spec/rayClusterSpec/workerGroupSpecs/0"
RAY = f"{WORKERS}/template/spec/containers/0"


@pytest.mark.parametrize(
    ("which", "change", "where", "why"),
    [
        pytest.param(*case[1:], id=case[0])
        for case in [
            # what jobs and applications are told
            ("a command that is none", TRAINING, in_text("spec/entrypoint", "train", "trian"), "spec.entrypoint", "no command"),
            ("settings that are not there", TRAINING, in_text("spec/entrypoint", "train.yaml", "tran.yaml"), "spec.entrypoint", "tran.yaml does not exist"),
            ("another program", TRAINING, at("spec/entrypoint", "python train.py"), "spec.entrypoint", "no command of rayapp's"),
            ("a key that Serve ignores", SERVING, in_text("spec/serveConfigV2", "route_prefix", "route_perfix"), "spec.serveConfigV2", "unknown key applications.route_perfix"),
            ("an application that is not there", SERVING, in_text("spec/serveConfigV2", "serve.app:app", "serve.app:application"), "spec.serveConfigV2", "cannot be imported"),
            ("a setting that is none", SERVING, in_text("spec/serveConfigV2", "ingresses", "ingreses"), "spec.serveConfigV2", "did you mean ingresses"),
            ("a GPU type that no group has", SERVING, in_text("spec/serveConfigV2", "L40S", "H100"), "spec.serveConfigV2", "of type H100"),
            ("more GPUs than there are", SERVING, in_text("spec/serveConfigV2", "max_replicas: 5", "max_replicas: 50"), "spec.serveConfigV2", "ask for 50 GPUs.*grow to 10"),
            ("a type that the autoscaler is not told", SERVING, at("spec/rayClusterConfig/workerGroupSpecs/0/resources", None), "spec.serveConfigV2", "without .accelerator_type"),
            # KubeRay's rules
            ("no token", TRAINING, at("spec/rayClusterSpec/authOptions", None), "authOptions.mode", "must be token"),
            ("a head that works", TRAINING, at(f"{HEAD}/rayStartParams", {}), "rayStartParams", 'num-cpus: "0"'),
            ("a head that dies", TRAINING, at(f"{HEAD}/template/spec/containers/0/resources", {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}}), "limits.memory", "less than 5Gi"),
            ("a queue without an end", TRAINING, at("spec/shutdownAfterJobFinishes", False), "shutdownAfterJobFinishes", "Kueue"),
            ("nobody lets it go", TRAINING, at("metadata/labels", {}), "spec.suspend", "nobody lets the job go"),
            ("a queue that is not there", TRAINING, at("metadata/labels", {"kueue.x-k8s.io/queue-name": "nightly"}), "queue-name", "LocalQueue nightly is nowhere"),
            ("a folder of nobody's", SYNTHESIS, at("spec/runtimeEnvYAML", "working_dir: ./"), "runtimeEnvYAML", "remote URI"),
            ("restarts that nobody knows", SYNTHESIS, at(f"{WORKERS}/template/spec/restartPolicy", "Always"), "restartPolicy", "unset or Never"),
            ("labels that are not read", SYNTHESIS, at(f"{WORKERS}/rayStartParams", {"labels": "a=b"}), "rayStartParams.labels", "the group's own labels"),
            ("more than the most", SYNTHESIS, at(f"{WORKERS}/replicas", 99), "replicas", "not between"),
            ("memory that Ray miscounts", SYNTHESIS, at(f"{RAY}/resources/requests/memory", "1Gi"), "resources", "make them equal"),
            ("an upgrade of no kind", SERVING, at("spec/upgradeStrategy/type", "RollingUpdate"), "upgradeStrategy", "RollingUpdate"),
            ("a name that is too long", SERVING, at("metadata/name", "s" * 48), "metadata.name", "KubeRay takes 47"),
            # what is named
            ("an image without a version", TRAINING, at(f"{RAY}/image", "registry/rayapp/train"), "image", "tag that does not move"),
            ("another version's image", TRAINING, at(f"{RAY}/image", "registry/rayapp/train:0.0.9"), "image", "not of this version"),
            ("an image that nobody makes", TRAINING, at(f"{RAY}/image", "registry/rayapp/trainer:0.1.0"), "image", "makes no trainer"),
            ("a Secret that nobody makes", SERVING, in_text("spec/rayClusterConfig/gcsFaultToleranceOptions/redisPassword/valueFrom/secretKeyRef/name", "serving-redis", "redis"), "redisPassword", "Secret redis is made by nobody"),
            ("a claim that is not there", TRAINING, at(f"{WORKERS}/template/spec/volumes/0", {"name": "shared", "persistentVolumeClaim": {"claimName": "fsx"}}), "volumes", "PersistentVolumeClaim fsx is nowhere"),
            ("an account that is not there", TRAINING, at(f"{WORKERS}/template/spec/serviceAccountName", "trainer"), "serviceAccountName", "trainer is nowhere"),
            ("a service that is not there", TRAINING, at(f"{RAY}/env/0/value", "http://ml-flow:5000"), "value", "no Service is called ml-flow"),
            ("a port of nobody's", ("Service", "mlflow"), at("spec/ports/0/targetPort", 5001), "spec.ports", "5001 is no port"),
            ("a policy for nobody", ("NetworkPolicy", "to-mlflow"), at("spec/podSelector/matchLabels", {"app": "mlflow"}), "spec.selector", "no pod of this overlay has app=mlflow"),
            ("a monitor of no port", ("PodMonitor", "ray-workers"), at("spec/podMetricsEndpoints/0/port", "metric"), "spec.ports", "metric is no port"),
            ("a pod that is root", TRAINING, at(f"{WORKERS}/template/spec/securityContext/runAsNonRoot", False), "runAsNonRoot", "restricted"),
            # nodes
            ("a pod that no node holds", TRAINING, at(f"{RAY}/resources/requests/cpu", "96"), "containers.resources", "no node of p4d has it"),
            ("nodes that are taboo", TRAINING, at(f"{WORKERS}/template/spec/tolerations", None), "tolerations", "taint nvidia.com/gpu"),
            ("nodes that are not there", TRAINING, at(f"{WORKERS}/template/spec/nodeSelector", {"karpenter.sh/nodepool": "p5"}), "nodeSelector", "'p5' is no pool; there are cpu, g6e, p4d"),
            # schemas
            ("a field that is none", ("Deployment", "mlflow"), at("spec/replica", 2), "Deployment mlflow", "replica"),
            ("a number that is a text", ("Deployment", "mlflow"), at("spec/replicas", "two"), "spec.replicas", "two"),
        ]
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_where_and_why(production, which, change, where, why):
    verdict = validate(changed(production, *which, change), open_schemas(None), READERS)
    told = list(map(str, verdict.problems))
    assert any(where in problem and re.search(why, problem) for problem in told), told
    assert all(problem.split(": ")[0].startswith("eks-prod/") for problem in told)


@pytest.mark.parametrize(
    ("which", "change", "why"),
    [
        (TRAINING, at("spec/shutdownAfterJobFinish", True), "shutdownAfterJobFinish"),
        (SERVING, at("spec/upgradeStrategy/typ", "None"), "typ"),
        (("NodePool", "p4d"), at("spec/disruption/consolidationPolicy", "WhenIdle"), "WhenIdle"),
        (("EC2NodeClass", "p4d"), at("spec/role", None), "must specify exactly one|role"),
        (("ClusterQueue", "training"), at("spec/resourceGroups/0/coveredResources", ["cpu"]), "cover|resources"),
        (("PodMonitor", "ray-heads"), at("spec/podMetricsEndpoint", []), "podMetricsEndpoint"),
    ],
)
def test_what_a_crd_does_not_know_is_refused(production, schemas, which, change, why):
    if not schemas.crds:
        pytest.skip("RAYAPP_CRDS names no folder of CustomResourceDefinitions")
    verdict = validate(changed(production, *which, change), schemas, READERS)
    assert any(which[1] in problem.where and re.search(why, str(problem)) for problem in verdict.problems)


def test_without_crds_it_says_what_was_not_checked(production):
    assert any("RayJob" in what for what in validate(production, open_schemas(None), READERS).not_checked)


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


def test_secrets_are_drawn_anew_and_the_gateway_knows_the_key_that_the_server_takes():
    import hashlib

    first, second = draw({"HF_TOKEN": "hf_x"}), draw({})
    values = {secret["metadata"]["name"]: secret["stringData"] for secret in first}
    assert {name: tuple(data) for name, data in values.items()} == {
        name: keys for name, keys in SECRETS.items() if name != "object-store"
    }
    assert values["postgres"] != second[0]["stringData"]
    assert values["huggingface"] == {"token": "hf_x"}
    (entry,) = yaml.safe_load(values["serving-keys"]["keys.yaml"])
    assert entry["sha256"] == hashlib.sha256(values["gateway"]["serving-key"].encode()).hexdigest()
