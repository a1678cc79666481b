"""Factories of small, real data, and one Ray for all tests that need it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")  # as on a cluster; the quickstart has Ray's own proxy
os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "5")  # instead of 30, at each end of a server


@pytest.fixture
def slot() -> Callable[..., object]:
    """A slot of a clinical training sentence; any field can be given."""
    from rayapp.records import Slot, Term, Voice

    def make(**fields: object) -> Slot:
        values: dict[str, object] = {
            "slot_id": "0123456789abcdef",
            "split": "train",
            "style": "clinical_en",
            "prompt": "",
            "term": Term("losartan", category="drug"),
            "cast": (Voice("espeak", "en-us+m3", accent="en-us", rate_wpm=160),),
            "snr_db": 15.0,
            "seed": 7,
        }
        return Slot(**(values | fields))  # type: ignore[arg-type]

    return make


@pytest.fixture
def spoken(slot: Callable[..., object]) -> Callable[..., object]:
    """An utterance that espeak-ng spoke, with a pause of silence at its end where asked."""
    from pipelines.speech.espeak import speak
    from rayapp.records import SAMPLE_RATE_HZ, Transcript, Utterance

    def make(text: str = "please start losartan today", pause_seconds: float = 0.0, **fields: object) -> Utterance:
        audio, phonemes, words = speak(text, "en-us+m3", rate_wpm=160, pitch=50)
        audio = np.concatenate([audio, np.zeros(int(pause_seconds * SAMPLE_RATE_HZ), np.float32)])
        transcript = Transcript(text, text, ("losartan",), "en", "test")
        return Utterance(slot(**fields), transcript, audio, phonemes, words)  # type: ignore[arg-type]

    return make


@pytest.fixture
def lexicon_file(tmp_path: Path) -> Callable[[str], Path]:
    """A CSV file with the given rows under the usual header."""

    def make(rows: str, header: str = "text,category,language,pronunciation,weight\n") -> Path:
        path = tmp_path / "lexicon.csv"
        path.write_text(header + rows, encoding="utf-8")
        return path

    return make


Reply = tuple[int, dict[str, str], Any]
"""Status, headers and body."""


class ChatServer:
    """An OpenAI-compatible server on loopback that answers as `reply` says: (status, headers, body)."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]) -> None:
        self.reply, self.asked, self.keys, self.lock = reply, [], [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(*outer.models(self.headers["Authorization"]))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.asked.append(body)
                    tries = len(outer.asked)
                self.answer(*outer.reply(body, tries))

            def answer(self, status: int, headers: dict[str, str], body: Any) -> None:
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                with contextlib.suppress(ConnectionError):  # who asked has given up
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def models(self, key: str | None) -> Reply:
        if key == "Bearer sk-wrong":
            return 401, {}, {"error": {"message": "no such key"}}
        return 200, {}, {"object": "list", "data": [{"id": name, "object": "model"} for name in ("small", "large")]}


@pytest.fixture
def serve() -> Iterator[Callable[..., ChatServer]]:
    """Starts a server whose answers a function of the request's body and number gives."""
    servers: list[ChatServer] = []

    def start(reply: Callable[[dict[str, Any], int], Reply]) -> ChatServer:
        server = ChatServer(reply)
        threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """An S3 server on loopback; gives locations in a bucket of it. Started by the first test that asks."""
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_RECORDER_FILEPATH", str(tmp_path_factory.mktemp("s3") / "recording"))
        for name, value in {
            "ACCESS_KEY_ID": "tests",
            "SECRET_ACCESS_KEY": "tests",
            "DEFAULT_REGION": "eu-west-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="speech", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield lambda path: f"s3://speech/{path}?endpoint_override={host}:{port}&scheme=http&region=eu-west-1"
        server.stop()


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    from rayapp.ray_session import ray_session

    with ray_session("local"):
        yield


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and a node, each of which has a CPU, for processes of their own; they are killed at the end."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def small_manifest(ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest that the real chain made: a few utterances of each kind."""
    from pipelines.config import SynthesisConfig
    from pipelines.lexicon.config import LexiconConfig
    from pipelines.manifests.config import ManifestsConfig, SizesConfig
    from pipelines.synthesize import synthesize

    sizes = SizesConfig(
        train_per_term=4,
        train_everyday=24,
        validation=4,
        validation_everyday=4,
        test=6,
        test_unseen_patterns=6,
        test_unseen_terms=6,
        test_other_synthesiser=6,
        test_general=6,
    )
    output = tmp_path_factory.mktemp("manifests") / "small"
    synthesize(
        SynthesisConfig(
            output=output, lexicon=LexiconConfig(take=6, held_out=4), manifests=ManifestsConfig(sizes=sizes)
        )
    )
    return output


@pytest.fixture(scope="session")
def small_model(ray: None, small_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that two Ray Train workers trained for a few steps with DeepSpeed; its folder."""
    from pipelines.training.config import DeepSpeedConfig, InputConfig, ModelConfig, SourceConfig, TrainingConfig
    from pipelines.training.train import train

    home = tmp_path_factory.mktemp("training")
    config = TrainingConfig(
        output=home / "model",
        sources=(SourceConfig(manifest=small_manifest),),
        validation=(SourceConfig(manifest=small_manifest, split="validation"),),
        model=ModelConfig(recipe="fastconformer_tdt_small", vocabulary_size=64),
        max_steps=6,
        epochs=20,
        input=InputConfig(batch_seconds=12),
        deepspeed=DeepSpeedConfig(zero_stage=1),
    )
    train(config, home / "tracking")
    return config.output


@pytest.fixture(scope="session")
def monitoring() -> Monitoring:
    """Dashboards, alerts and recording rules."""
    folder = Path(__file__).parents[1] / "cluster/manifests/base/monitoring"
    dashboards = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("dashboards/*.json"))}
    rules = {file.stem: yaml.safe_load(file.read_text())["spec"]["groups"] for file in folder.glob("*-alerts.yaml")}
    return Monitoring(folder, dashboards, rules)


@dataclass(frozen=True)
class Monitoring:
    folder: Path
    dashboards: Mapping[str, dict[str, Any]]
    rules: Mapping[str, list[dict[str, Any]]]
    """Groups of rules, by file."""

    def expressions(self, *names: str) -> list[str]:
        """What these dashboards and files of rules ask for, as Prometheus reads it; without names, all of them."""
        asked = []
        for name in names or (*self.dashboards, *self.rules):
            if name in self.rules:
                asked += [rule["expr"] for group in self.rules[name] for rule in group["rules"]]
            else:
                asked += list(_queries(self.dashboards[name]))
        return asked

    def all_rules(self) -> str:
        """As a file of Prometheus' own."""
        return yaml.safe_dump({"groups": [group for groups in self.rules.values() for group in groups]})


def _queries(dashboard: dict[str, Any]) -> Iterator[str]:
    variables = dashboard["templating"]["list"]
    for variable in variables:
        if variable["type"] == "query":
            yield re.fullmatch(r"label_values\((\w+), \w+\)", variable["query"])[1]
    values = {"__rate_interval": "1m", "__range": "1h", "cluster": ".*"}
    values |= {variable["name"]: variable["query"] for variable in variables if variable["type"] == "textbox"}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield re.sub(r"\$(\w+)", lambda found: values[found[1]], target["expr"])


@pytest.fixture(scope="session")
def metric_names() -> Callable[[str], set[str]]:
    """Those that an expression of PromQL asks for."""
    import promql_parser

    def find(expression: str) -> set[str]:
        found: set[str] = set()

        def visit(node: object) -> None:
            if isinstance(node, promql_parser.VectorSelector):
                found.add(node.name)

        promql_parser.walk(promql_parser.parse(expression), visit)
        return found

    return find


class Prometheus:
    """A server of Prometheus on loopback."""

    def __init__(self, url: str) -> None:
        self.url, self.started = url, time.time()

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, (parameters, answer.text)
        return answer.json()["data"]

    def missing(self, names: set[str], patience_seconds: float = 60) -> set[str]:
        """Those that are not there, and do not come."""
        ends = time.monotonic() + patience_seconds
        while (left := names - set(self.get("label/__name__/values"))) and time.monotonic() < ends:
            time.sleep(0.5)
        return left


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory, monitoring: Monitoring) -> Iterator[Callable[..., Prometheus]]:
    """Starts servers with our rules, each of which scrapes as its argument says; skips where there is none to start."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not here")
    from serve.run import free_port

    started = []

    def start(**scrape: Any) -> Prometheus:
        folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
        every = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
        config = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": [{"job_name": "ray", **scrape}]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (folder / "rules.yaml").write_text(monitoring.all_rules())
        command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
        with (folder / "log").open("w") as log:
            started.append(
                subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stderr=log)
            )
        url, ends = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while not _is_ready(url):
            assert started[-1].poll() is None, (folder / "log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.2)
        return Prometheus(url)

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
