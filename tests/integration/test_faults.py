"""Three nodes and what befalls them.

A node is drained and taken away, or lost at once; a head starts again; an object store is full; storage is slow.

A node that is lost during a synthesis is in `test_exactly_once`, one during a training in `test_training`.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from cluster.local import NodeShape, local_cluster
from rayapp.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.alone]
PATIENCE_SECONDS = 240
DEADLINE_SECONDS = 10
SPEECH = {
    "lexicon": {"take": 4, "held_out": 2},
    "workers": 2,
    "manifests": {
        "sizes": {
            "train_per_term": 60,
            "train_everyday": 60,
            "validation": 0,
            "test": 0,
            "test_unseen_patterns": 0,
            "test_unseen_terms": 0,
            "test_other_synthesiser": 0,
            "test_general": 0,
        }
    },
    "augmentation": {"chain": ["room", "noise", "microphone", "codec"]},
}


def until(condition):
    """Poll; fails where it does not come true in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def environment():
    """Without tokens: those are for `test_jobs`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        # HAProxy asks ingresses of other nodes, which listen on their own loopback alone here.
        patch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
        yield


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """What a head leaves behind for the next one."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    from serve.run import free_port

    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(words, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def three(environment, redis):
    """A head with a CPU, and two nodes beside it with two each, as Ray is to count them."""
    with local_cluster(3, NodeShape(cpus=2), NodeShape(cpus=1), redis) as cluster:
        yield cluster


@pytest.fixture
def nodes(three):
    """Two that are there; what a test takes away is replaced after it."""
    yield three
    for _ in range(2 - len(three.nodes)):
        three.add_node()


@pytest.fixture
def rayapp(environment, tmp_path):
    """Starts a command on a cluster; whatever still runs at the end is killed."""
    started = []

    def start(*words, address, **settings):
        file = tmp_path / "settings.yaml"
        file.write_text(yaml.safe_dump(settings))
        process = subprocess.Popen(
            [sys.executable, "-m", "rayapp.cli", *words, str(file), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_ADDRESS": address},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def shards(output):
    """That a run has committed so far."""
    return list(output.parent.glob(f".{output.name}.*.partial/blocks/round-00/*.parquet"))


def ids(output):
    """Of all rows; each is there once."""
    told = [row for split in Manifest(output).splits for row in Manifest(output).read(split, ["slot_id"]).to_pylist()]
    slots = [row["slot_id"] for row in told]
    assert len(slots) == len(set(slots))
    return slots


def drain(cluster, node):
    """As a node is that gets notice that it will be taken away."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
    command += ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command += ["--deadline-remaining-seconds", str(DEADLINE_SECONDS)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)


def test_a_synthesis_goes_on_where_a_node_is_drained_and_taken_away(nodes, rayapp, tmp_path):
    output = tmp_path / "speech"
    run = rayapp("synthesize", address=nodes.address, output=str(output), **SPEECH)
    until(lambda: len(shards(output)) >= 2)
    leaving = nodes.nodes[0]
    drain(nodes, leaving.id)
    notice = time.monotonic()
    until(lambda: time.monotonic() - notice > DEADLINE_SECONDS / 2)
    leaving.kill()
    nodes.nodes.remove(leaving)
    nodes.add_node()
    told, errors = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, errors
    assert len(ids(output)) == json.loads(told)["total_utterances"] > 300


def test_what_a_head_leaves_and_what_it_takes_along(nodes, tmp_path, monkeypatch):
    """With a Redis behind it: nodes and detached actors stay, and so does what was committed. The job ends, since its
    driver was on the head; submitted again, it goes on."""
    output = tmp_path / "speech"
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"output": str(output), **SPEECH}))
    profile = {"address": nodes.url, "driver_cpus": 0, "shared": [str(tmp_path)]}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("RAYAPP_CLUSTER", str(tmp_path / "profile.yaml"))

    def run(*words):
        command = [sys.executable, "-m", "rayapp.cli", *words]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def submit(*options):
        return run("submit", *options, "--json", "--", "synthesize", "settings.yaml")

    survivor = driver(nodes, SURVIVE.format(node=nodes.nodes[0].id))  # on the head, it would go with it
    first = submit("--no-wait")
    until(lambda: len(shards(output)) >= 2)
    nodes.head.kill()
    nodes.start_head()
    until(lambda: len(nodes.alive()) == 3)

    assert driver(nodes, FIND) == survivor
    committed = len(shards(output))
    run(
        "jobs", "stop", "--json", first["submission_id"]
    )  # has the new head look after the job: see docs/how-to/faults.md
    until(lambda: run("jobs", "status", "--json", first["submission_id"])["status"] in ("FAILED", "STOPPED"))
    second = submit()
    assert (second["status"], second["submitted"]) == ("SUCCEEDED", True)
    assert second["submission_id"] != first["submission_id"]
    assert committed >= 2
    assert len(ids(output)) > 300


def driver(cluster, code):
    """Runs code in a driver of its own on the cluster; what it prints."""
    begin = f'import ray\nray.init("{cluster.address}", namespace="faults", log_to_driver=False, logging_level="ERROR")'
    words = [sys.executable, "-c", f"{begin}\n{textwrap.dedent(code)}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SURVIVE = """
    class Survivor:
        def pid(self):
            import os
            return os.getpid()

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy("{node}", soft=False)
    options = {{"name": "s", "lifetime": "detached", "scheduling_strategy": place}}
    print(ray.get(ray.remote(Survivor).options(**options).remote().pid.remote()))
"""
FIND = """
    print(ray.get(ray.get_actor("s").pid.remote()))
    ray.kill(ray.get_actor("s"))
"""
MEET = """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def meet(rank, address):
        import datetime, torch
        patience = datetime.timedelta(seconds=60)
        torch.distributed.init_process_group("gloo", f"tcp://{{address}}", patience, world_size=2, rank=rank)
        torch.distributed.all_reduce(here := torch.ones(1))
        return here.item()

    nodes = {nodes}
    first = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == nodes[0])
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    met = [ray.remote(meet).options(scheduling_strategy=place).remote(rank, f"{{first}}:{port}")
           for rank, place in enumerate(places)]
    print(ray.get(met))
"""


def test_processes_of_a_training_find_one_another_on_several_nodes(nodes):
    from serve.run import free_port

    here = [node.id for node in nodes.nodes[:2]]
    assert driver(nodes, MEET.format(nodes=here, port=free_port())) == "[2.0, 2.0]"


def test_a_server_loses_a_node_with_notice_and_one_without_and_no_request_fails(nodes, rayapp, recording, tmp_path):
    """The ingress is on the head, where nobody is lost; a recogniser is on each of the others."""
    from rayapp.asr.tiny_whisper import tiny_whisper
    from serve.run import free_port

    port = free_port()
    tiny_whisper(tmp_path / "whisper", ["please start losartan today"])
    server = rayapp(
        "serve",
        address=nodes.address,
        models=[{"name": "medical-asr", "source": str(tmp_path / "whisper")}],
        allow_unreleased=True,
        port=port,
        cpus_per_replica=2,
        scaling={"min_replicas": 2, "max_replicas": 2},
    )
    line = server.stdout.readline()
    assert "url" in line, server.communicate()
    url = json.loads(line)["url"]
    answers, over = [], threading.Event()

    def ask():
        with httpx.Client(timeout=PATIENCE_SECONDS) as http:
            while not over.is_set():
                files, data = {"file": ("a.flac", recording)}, {"model": "medical-asr"}
                answers.append(http.post(f"{url}/audio/transcriptions", files=files, data=data).status_code)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for each in asking:
        each.start()
    try:
        until(lambda: len(answers) > 6)
        nodes.add_node()  # where the copy of the first one to go will be
        for notice in (True, False):
            leaving = nodes.nodes[0]
            if notice:
                drain(nodes, leaving.id)
                began = time.monotonic()
                until(lambda since=began: time.monotonic() - since > DEADLINE_SECONDS)
            leaving.kill()
            nodes.nodes.remove(leaving)
            before = len(answers)
            until(lambda seen=before: len(answers) > seen + 10)
    finally:
        over.set()
        for each in asking:
            each.join()
    assert set(answers) == {200}


@pytest.fixture(scope="module")
def recording():
    """Some seconds of speech."""
    import numpy as np

    from pipelines.speech.espeak import speak
    from rayapp.audio.codec import encode_flac

    audio = speak("please start losartan today and come back", "en-us+m3", rate_wpm=160, pitch=50).audio
    return encode_flac(np.resize(audio, 8 * 16_000))


LARGE = """
    import numpy as np, ray, sys
    from pipelines.manifests.rows import manifest_table
    from rayapp.execution import Group, run_plan
    from rayapp.stage import Resources, Stage

    class Long(Stage):
        name, version, resources = "long", 1, Resources(cpus=1.0, memory_gb=0.1)
        def __call__(self, utterance):
            return utterance.with_audio(np.full(60 * 16_000, 0.1, np.float32))

    class Look(Stage):
        name, version, resources = "look", 1, Resources(cpus=1.0, memory_gb=0.1)
        def __call__(self, utterance):
            return utterance

    ray.init("local", num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False)
    *_, summary = run_plan(sys.argv[1], [Group([Long]), Group([Look])], sys.argv[2], manifest_table)
    print(summary.committed)
"""


def test_a_run_is_larger_than_the_object_store(environment, slot, tmp_path):
    from rayapp.plan import write_plan

    plan, blocks = tmp_path / "plan", tmp_path / "blocks"
    write_plan((slot(slot_id=f"{number:016x}", seed=number) for number in range(100)), str(plan))
    words = [sys.executable, "-c", textwrap.dedent(LARGE), str(plan), str(blocks)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.stdout.strip().splitlines()[-1:] == ["100"], done.stderr  # of 3.8 MB each
    assert pq.read_table(blocks, columns=["slot_id"]).num_rows == 100


def test_storage_that_takes_its_time_costs_time_alone(rayapp, slow_s3):
    output = slow_s3("slow/speech")
    few = {"sizes": SPEECH["manifests"]["sizes"] | {"train_per_term": 8, "train_everyday": 8}}
    run = rayapp("synthesize", address="local", **SPEECH | {"output": output, "manifests": few})
    told, errors = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, errors
    assert len(ids(output)) == json.loads(told)["total_utterances"] > 30


@pytest.fixture
def slow_s3(tmp_path, monkeypatch):
    """An S3 that answers each request a tenth of a second late; gives locations in a bucket of it."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    monkeypatch.setenv("MOTO_RECORDER_FILEPATH", str(tmp_path / "recording"))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "tests")
    store = DomainDispatcherApplication(create_backend_app)

    def late(request, respond):
        time.sleep(0.1)
        return store(request, respond)

    server = make_server("127.0.0.1", 0, late, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.port}"
    client = boto3.client("s3", endpoint_url=f"http://{host}", region_name="eu-west-1")
    client.create_bucket(Bucket="slow", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield lambda path: f"s3://slow/{path}?endpoint_override={host}&scheme=http&region=eu-west-1"
    server.shutdown()
