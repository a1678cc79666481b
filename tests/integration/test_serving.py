import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import openai
import pytest

from rayapp.asr.tiny_whisper import tiny_whisper
from rayapp.audio.codec import encode_flac
from rayapp.errors import UserError
from rayapp.ids import path_id
from rayapp.manifest import Manifest
from rayapp.registry import Registry
from serve.config import ModelConfig, ServeConfig
from serve.run import free_port, require_free_port, serving

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def home(small_model, tmp_path_factory):
    """A registry with a champion, and a second version."""
    folder, model = tmp_path_factory.mktemp("registry"), small_model / "model.nemo"
    registry = Registry(folder)
    for key in ("first", "second"):
        registry.publish("medical-asr", model, path_id(model), {}, [], key, folder)
    registry.crown("medical-asr", "1", "")
    return folder


@pytest.fixture(scope="module")
def client(home, tmp_path_factory):
    whisper = tmp_path_factory.mktemp("whisper") / "model"
    tiny_whisper(whisper, ["please start losartan today"])
    config = ServeConfig(
        models=(ModelConfig(name="medical-asr"), ModelConfig(name="whisper", source=str(whisper))),
        allow_unreleased=True,
        registry_poll_seconds=0.5,
        port=free_port(),
        max_audio_seconds=30,
        max_upload_mb=2,
    )
    with serving(config, home) as url:
        yield openai.OpenAI(base_url=url, api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def recording(small_manifest):
    row = Manifest(small_manifest).read("test", ["audio"]).to_pylist()[0]
    return row["audio"]["path"], row["audio"]["bytes"]


def test_the_official_client_gets_what_the_model_hears(client, recording, small_model):
    from rayapp.asr.nemo import NemoRecogniser
    from rayapp.audio.codec import decode

    answer = client.audio.transcriptions.create(model="medical-asr", file=recording)
    audio = decode(recording[1])
    sent = (audio * 32767).astype(np.int16).astype(np.float32) / 32768
    assert answer.text == NemoRecogniser.load(small_model / "model.nemo").transcribe([sent])[0].text
    assert answer.usage.seconds == pytest.approx(len(audio) / 16_000, abs=0.01)


def test_text_and_verbose_formats(client, recording):
    plain = client.audio.transcriptions.create(model="medical-asr", file=recording, response_format="json").text
    text = client.audio.transcriptions.create(model="medical-asr", file=recording, response_format="text")
    verbose = client.audio.transcriptions.create(
        model="medical-asr", file=recording, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert text.strip() == plain
    assert " ".join(word.word for word in verbose.words) == plain
    assert all(0 <= word.start <= word.end <= verbose.duration + 0.5 for word in verbose.words)


def test_a_stream_ends_with_the_whole_text(client, recording):
    whole = client.audio.transcriptions.create(model="medical-asr", file=recording).text
    events = list(client.audio.transcriptions.create(model="medical-asr", file=recording, stream=True))
    assert [event.type for event in events][-1] == "transcript.text.done"
    assert events[-1].text == whole


def test_many_at_a_time_are_each_answered_with_their_own(client, recording):
    with ThreadPoolExecutor(16) as pool:
        ask = partial(client.audio.transcriptions.create, model="medical-asr")
        alone = ask(file=recording).text
        answers = list(pool.map(lambda _: ask(file=recording).text, range(32)))
    assert answers == [alone] * 32


def test_it_is_ready(client):
    assert httpx.get(str(client.base_url).replace("/v1/", "/readyz")).json() == {"status": "ready"}


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["medical-asr", "whisper"]
    assert client.models.retrieve("medical-asr").owned_by == "rayapp"


def test_each_request_is_heard_by_the_model_that_it_names(client, spoken):
    speech = ("note.flac", encode_flac(spoken().audio))
    ask = partial(client.audio.transcriptions.with_raw_response.create, file=speech)
    answers = [ask(model=name) for name in ("medical-asr", "whisper")]
    assert [answer.headers["x-rayapp-model"] for answer in answers] == ["medical-asr:1", "whisper"]
    for name in ("medical-asr", "whisper"):
        assert ask(model=name, prompt="She takes two.", keywords=["losartan"]).status_code == 200


def test_a_version_that_is_promoted_is_served_and_one_that_is_taken_back_is_not_and_no_request_fails(
    client, recording, home
):
    def until(version):
        told, ends = set(), time.monotonic() + 60
        while version not in told:
            assert time.monotonic() < ends, told
            answer = client.audio.transcriptions.with_raw_response.create(model="medical-asr", file=recording)
            told.add(answer.headers["x-rayapp-model"])
        return client.models.retrieve("medical-asr").version

    registry = Registry(home)
    registry.crown("medical-asr", "2", "better")
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(until, ["medical-asr:2"] * 2)) == {"2"}
        registry.roll_back("medical-asr", "worse")
        assert set(pool.map(until, ["medical-asr:1"] * 2)) == {"1"}


@pytest.mark.parametrize(
    ("request_fields", "error", "message"),
    [
        ({"model": "whisper-1"}, openai.NotFoundError, "server has medical-asr"),
        ({"file": ("a.wav", b"not audio")}, openai.BadRequestError, "is not audio that can be read"),
        ({"file": ("a.wav", b"")}, openai.BadRequestError, "is not audio that can be read"),
        ({"response_format": "diarized_json"}, openai.BadRequestError, "needs a diariser"),
        ({"file": ("a.wav", bytes(3_000_000))}, openai.APIStatusError, "larger than 2 MB"),
    ],
)
def test_a_bad_request_gets_an_error_in_openais_shape_and_the_next_is_served(
    client, recording, request_fields, error, message
):
    with pytest.raises(error, match=message) as caught:
        client.audio.transcriptions.create(**({"model": "medical-asr", "file": recording} | request_fields))
    assert len(caught.value.response.headers.get_list("x-request-id")) == 1
    assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}
    assert client.audio.transcriptions.create(model="medical-asr", file=recording).text is not None


def test_an_address_that_is_not_there_is_answered_in_openais_shape(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.get("/nothing", cast_to=object)
    assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}


def test_audio_that_is_too_long_is_refused(client):
    import io

    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(16_000 * 31, np.float32), 16_000, format="FLAC")
    with pytest.raises(openai.BadRequestError, match="is longer than 30 s, the most that is taken"):
        client.audio.transcriptions.create(model="medical-asr", file=("long.flac", buffer.getvalue()))


def test_a_port_in_use_is_named(client):
    with pytest.raises(UserError, match=r"cannot be used"):
        require_free_port("127.0.0.1", client.base_url.port)


def test_transcribe_reads_a_file_with_the_champion(home, recording, tmp_path):
    (tmp_path / "note.flac").write_bytes(recording[1])
    answer = subprocess.run(
        [sys.executable, "-m", "rayapp.cli", "transcribe", tmp_path / "note.flac", "--home", home, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(answer.stdout)["transcripts"]
    assert row["file"].endswith("note.flac")
    assert isinstance(row["text"], str)
