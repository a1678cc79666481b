"""What others' clients make of our API: OpenAI's own for Python and Node, and a LiteLLM proxy in front of us.

What listens is made of a few words here; the server, its decoding and its formats are the real ones.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
import yaml

from rayapp.asr.recogniser import Heard, Word
from rayapp.audio.codec import encode_flac
from serve.api import build_api
from serve.config import ServeConfig
from serve.metrics import IngressMetrics
from serve.models import Catalogue
from serve.run import free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone]

HERE = Path(__file__).parent
LITELLM = "litellm[proxy]==1.106.2"
WORDS = (Word("Hello.", 0.1, 0.5, 0.9), Word("Losartan?", 0.6, 1.2, 0.4))


@pytest.fixture(scope="module")
def url():
    """Hears the same in everything, and then the phrases that it was told."""

    class Listener:
        async def transcribe(self, model_id, samples, stream, admitted, context):
            return Heard(" ".join([*(word.text for word in WORDS), *context.phrases]), WORDS)

        async def prepare(self, model):
            raise AssertionError

    models = ({"name": "medical-asr", "source": "model.nemo"},)
    config = ServeConfig(models=models, allow_unreleased=True)
    api = build_api(config, Catalogue(config, Path()), Listener(), IngressMetrics())
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until_answered(f"http://127.0.0.1:{port}/healthz", lambda: thread.is_alive())
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    from pipelines.speech.espeak import speak

    path = tmp_path_factory.mktemp("recording") / "note.flac"
    path.write_bytes(encode_flac(speak("please start losartan today", "en-us+m3", rate_wpm=160, pitch=50).audio))
    return path


def wait_until_answered(address, alive, seconds=120):
    until = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(address, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert alive(), f"what should answer at {address} has ended"
        assert time.monotonic() < until, f"nothing answered at {address} in {seconds} s"
        time.sleep(0.1)


def fetched(*command, cwd=None):
    """Runs what fetches a package; the test is skipped where that cannot be had."""
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{command[0]} cannot fetch what is to be tested: {error}")


def test_openais_python_client(url, recording):
    client = openai.OpenAI(base_url=url, api_key="any", max_retries=0)
    verbose = client.audio.transcriptions.create(
        model="medical-asr",
        file=recording,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [word.word for word in verbose.words] == ["Hello.", "Losartan?"]
    assert [segment.text for segment in verbose.segments] == ["Hello.", "Losartan?"]
    assert [word.model_extra["uncertain"] for word in verbose.words] == [False, True]
    plain = client.audio.transcriptions.create(model="medical-asr", file=recording, include=["logprobs"])
    assert plain.logprobs[1].token == "Losartan?"
    assert plain.usage.type == "duration"


def test_openais_node_client(url, recording, tmp_path):
    shutil.copytree(HERE / "clients", tmp_path, dirs_exist_ok=True)
    fetched("npm", "install", "--silent", "--no-audit", "--no-fund", cwd=tmp_path)
    command = ["node", "conformance.mjs", url, str(recording)]
    told = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120).stdout)
    assert told["json"]["text"] == "Hello. Losartan?"
    assert told["json"]["usage"]["type"] == "duration"
    assert told["text"] == "Hello. Losartan?\n"
    assert told["srt"].startswith("1\n00:00:00,100 --> 00:00:00,500\nHello.\n")
    assert told["vtt"].startswith("WEBVTT\n\n00:00:00.100 --> 00:00:00.500\nHello.\n")
    assert [word["start"] for word in told["verbose"]["words"]] == [0.1, 0.6]
    assert [segment["text"] for segment in told["verbose"]["segments"]] == ["Hello.", "Losartan?"]
    assert [each["token"] for each in told["logprobs"]] == ["Hello.", "Losartan?"]
    assert told["keywords"] == "Hello. Losartan? losartan amiodarone"
    assert told["cut"] == "Hello. Losartan?"
    assert [event["type"] for event in told["events"]] == ["transcript.text.delta", "transcript.text.done"]
    assert told["events"][-1]["text"] == "Hello. Losartan?"
    assert (told["models"], told["model"]) == (["medical-asr"], "medical-asr")
    assert told["errors"] == {
        "model": {"kind": "NotFoundError", "param": "model", "request": True},
        "format": {"kind": "BadRequestError", "param": "response_format", "request": True},
        "translation": {"kind": "BadRequestError", "param": "model", "request": True},
    }


@contextmanager
def litellm(url, folder):
    """A proxy in an environment of its own, as its pins are not ours; yields its address and its key."""
    uv = shutil.which("uv") or str(HERE.parents[1] / ".uv/bin/uv")
    fetched(uv, "venv", "--python", sys.executable, str(folder / "venv"))
    fetched(uv, "pip", "install", "--no-config", "--python", str(folder / "venv/bin/python"), LITELLM)
    upstream = {"model": "openai/medical-asr", "api_base": url, "api_key": "any"}
    model = {
        "model_name": "medical-asr",
        "litellm_params": upstream,
        "model_info": {"mode": "audio_transcription"},
    }
    settings = {"model_list": [model], "litellm_settings": {"num_retries": 0, "telemetry": False}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    port, key = free_port(), f"sk-{secrets.token_hex(24)}"
    command = [folder / "venv/bin/litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | {"LITELLM_MASTER_KEY": key}
        )
    try:
        wait_until_answered(f"http://127.0.0.1:{port}/health/liveliness", lambda: process.poll() is None)
        yield f"http://127.0.0.1:{port}/v1", key
    finally:
        process.terminate()
        process.wait(30)


def test_a_litellm_proxy_in_front_of_us(url, recording, tmp_path):
    with litellm(url, tmp_path) as (proxy, key):
        client = openai.OpenAI(base_url=proxy, api_key=key, max_retries=0)
        told = client.audio.transcriptions.create(model="medical-asr", file=recording, prompt="amiodarone")
        assert told.text == "Hello. Losartan? amiodarone"
        verbose = client.audio.transcriptions.create(
            model="medical-asr", file=recording, response_format="verbose_json"
        )
        assert [segment.text for segment in verbose.segments] == ["Hello.", "Losartan?"]
        with pytest.raises(openai.BadRequestError, match="is not audio that can be read"):
            client.audio.transcriptions.create(model="medical-asr", file=("a.wav", b"nothing"))
