"""What a server does that its users should not notice: it grows, shrinks, loses a copy of the model, is replaced."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import psutil
import pytest

from rayapp.audio.codec import encode_flac
from serve.config import ModelConfig, ScalingConfig, ServeConfig
from serve.run import APPLICATION, deploy, free_port, serving

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PATIENCE_SECONDS = 240
SCALING = ScalingConfig(max_replicas=3, target_pending_seconds=20, upscale_delay_seconds=0.5, downscale_delay_seconds=3)


@pytest.fixture(scope="module")
def config(small_model):
    return ServeConfig(
        models=(ModelConfig(name="medical-asr", source=str(small_model / "model.nemo")),),
        allow_unreleased=True,
        port=free_port(),
        cpus_per_replica=0.3,
        scaling=SCALING,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def url(config, home):
    with serving(config, home) as url:
        yield url


@pytest.fixture(scope="module")
def recording():
    """20 s of speech."""
    from pipelines.speech.espeak import speak

    audio = speak("please start losartan today and come back", "en-us+m3", rate_wpm=160, pitch=50).audio
    return encode_flac(np.resize(audio, 20 * 16_000))


@contextmanager
def load(url, recording, clients):
    """So many clients ask without a pause for the length of the block; yields what they were answered so far."""
    answers, over = [], threading.Event()

    def client():
        with httpx.Client(timeout=PATIENCE_SECONDS) as http:
            while not over.is_set():
                files, data = {"file": ("a.flac", recording)}, {"model": "medical-asr"}
                answers.append(http.post(f"{url}/audio/transcriptions", files=files, data=data).status_code)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(client) for _ in range(clients)]
        try:
            yield answers
        finally:
            over.set()
        for each in asking:
            each.result()


def wait_until(fulfilled):
    until = time.monotonic() + PATIENCE_SECONDS
    while not fulfilled():
        assert time.monotonic() < until, replicas()
        time.sleep(0.2)


def replicas():
    """How many copies of the recogniser are in each state."""
    from ray.serve import status

    states = status().applications[APPLICATION].deployments["RecogniserReplica"].replica_states
    return {str(getattr(state, "value", state)): count for state, count in states.items() if count}


def processes():
    """Of the recognisers of this test's Ray."""
    mine = psutil.Process().children(recursive=True)
    return {process.pid: process for process in mine if "RecogniserReplica" in " ".join(_command(process))}


def _command(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_load_takes_the_copies_from_one_to_three_and_back_and_one_dies_without_a_failed_request(url, recording):
    with load(url, recording, 8) as answers:
        wait_until(lambda: replicas() == {"RUNNING": 3})
        wait_until(lambda: len(answers) > 16)
        victim, *_ = processes().values()
        victim.kill()
        before = len(answers)
        wait_until(lambda: len(answers) > before + 16)
    wait_until(lambda: replicas() == {"RUNNING": 1})
    assert set(answers) == {200}


def test_an_update_under_load_costs_no_request(url, recording, config, home):
    before = set(processes())
    with load(url, recording, 2) as answers:
        wait_until(lambda: len(answers) > 2)
        deploy(config.model_copy(update={"uncertain_below": 0.6, "cpus_per_replica": 0.25}), home)
        wait_until(lambda: set(replicas()) == {"RUNNING"} and not before & set(processes()))
        updated = len(answers)
        wait_until(lambda: len(answers) > updated + 2)
    assert set(answers) == {200}
