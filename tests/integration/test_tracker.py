"""MLflow as the cluster's manifest starts it: jobs reach it by its Service's name, and models go through it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from rayapp.registry import CHAMPION, Registry
from serve.run import free_port

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 120
MANIFEST = Path(__file__).parents[2] / "cluster/manifests/base/platform/mlflow.yaml"


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    """Its address, and the folder that is its bucket."""
    folder, port = tmp_path_factory.mktemp("tracker"), free_port()
    (deployment,) = (d for d in yaml.safe_load_all(MANIFEST.read_text()) if d["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    here = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={port}",
        "--artifacts-destination=$(ARTIFACTS)": f"--artifacts-destination={folder}/bucket",
    }
    assert here.keys() <= set(container["args"])
    program, *words = [*container["command"], *(here.get(word, word) for word in container["args"])]
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [Path(sys.executable).parent / program, *words], env=environment, stdout=log, stderr=log, process_group=0
        )
    url, deadline = f"http://localhost:{port}", time.monotonic() + PATIENCE_SECONDS
    try:
        while not is_well(url):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.2)
        yield url, folder / "bucket"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE_SECONDS)


def is_well(url):
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("host", ["mlflow:5000", "mlflow.rayapp.svc:5000"])
def test_it_answers_to_the_name_of_its_service(tracker, host):
    url, _ = tracker
    answer = httpx.get(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": host})
    assert answer.status_code == 200


def test_it_answers_to_no_other_name(tracker):
    url, _ = tracker
    answer = httpx.get(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": "elsewhere.com"})
    assert answer.status_code == 403


def test_a_model_goes_through_it_to_the_bucket_and_comes_back(tracker, tmp_path, monkeypatch):
    url, bucket = tracker
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    (tmp_path / "model.nemo").write_bytes(b"weights")
    registry = Registry(tmp_path / "home")
    registry.publish("medical-asr", tmp_path / "model.nemo", "a model", {"test.wer": 0.1}, [], "key", tmp_path)
    registry.crown("medical-asr", "1", "the first")
    assert [file.read_bytes() for file in bucket.rglob("model.nemo")] == [b"weights"]
    there = Registry(tmp_path / "another machine's home")
    assert there.resolve("medical-asr", CHAMPION).read_bytes() == b"weights"
