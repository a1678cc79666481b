import asyncio
import io
import json
from functools import partial
from pathlib import Path

import httpx
import hypothesis
import numpy as np
import pytest
import schemathesis
import soundfile
from schemathesis.specs.openapi.checks import positive_data_acceptance

from rayapp.asr.recogniser import Heard, Word
from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ
from serve.api import build_api
from serve.config import ServeConfig
from serve.metrics import IngressMetrics
from serve.models import Catalogue
from serve.transcription import ContextRefused, Ear, Refusal

URL = "/v1/audio/transcriptions"
MODELS = ({"name": "medical-asr", "source": "model.nemo"},)


class Listener:
    """Hears as many words as there are seconds; remembers what it was given."""

    def __init__(self, transcribe=None, there=True):
        self.given, self.answers, self.contexts, self.there = [], [], [], there
        if transcribe:
            self.transcribe = transcribe

    async def is_ready(self):
        return self.there

    async def prepare(self, model):
        raise AssertionError

    async def transcribe(self, model_id, samples, stream, admitted, context):
        self.contexts.append(context)
        self.given.append((len(samples) / SAMPLE_RATE_HZ, stream, admitted))
        assert samples.dtype == np.int16
        if self.answers:
            return self.answers.pop(0)
        words = [
            Word(f"word{n}.", n + 0.1, n + 0.9, 0.9 if n % 2 else 0.3)
            for n in range(round(len(samples) / SAMPLE_RATE_HZ))
        ]
        return Heard(" ".join(word.text for word in words), tuple(words))


def application(listener, **settings):
    """A server of one model that is in no registry."""
    config = ServeConfig(**{"models": MODELS, "allow_unreleased": True, **settings})
    return build_api(config, Catalogue(config, Path()), listener, IngressMetrics())


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def ask(listener):
    """Sends a request to a server of its own; the file is named `file`, all else is form fields."""

    def send(file, settings=(), path=URL, recogniser=listener, **fields):
        api = application(recogniser, **dict(settings))

        async def main():
            transport = httpx.ASGITransport(api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                data = {"model": "medical-asr", **fields}
                return await client.post(path, files={"file": ("note.wav", file)}, data=data)

        return asyncio.run(main())

    return send


CUT = {"max_piece_seconds": 6}


@pytest.fixture
def speech(spoken):
    """So many seconds of somebody who speaks without a pause, between two seconds of silence."""

    def make(seconds=2.0):
        silence, audio = np.zeros(2 * SAMPLE_RATE_HZ, np.float32), spoken().audio
        audio = np.resize(audio, int(seconds * SAMPLE_RATE_HZ))
        return wav(np.concatenate([silence, audio, silence]))

    return make


def wav(audio):
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE_HZ, format="WAV")
    return file.getvalue()


def test_json_tells_the_text_and_how_long_the_audio_is(ask, speech, listener):
    answer = ask(speech())
    told = answer.json()
    assert set(told) == {"text", "usage"}
    assert told["text"].startswith("word0. word1.")
    assert told["usage"] == {"type": "duration", "seconds": 6.0}
    ((seconds, _, admitted),) = listener.given
    assert seconds == 6.0
    assert not admitted
    assert answer.headers["x-request-id"]


def test_only_where_somebody_speaks_is_longer_audio_listened_to(ask, speech, listener):
    ask(speech(3), CUT)
    ((seconds, _, _),) = listener.given
    assert seconds == pytest.approx(3.5, abs=0.5)


def test_words_have_times_in_the_whole_audio_and_confidence(ask, speech):
    granularities = {"timestamp_granularities[]": ["word", "segment"]}
    told = ask(speech(3), CUT, response_format="verbose_json", **granularities).json()
    assert told["duration"] == 7.0
    assert told["words"][0]["word"] == "word0."
    assert told["words"][0]["start"] == pytest.approx(1.8, abs=0.3)
    assert [word["uncertain"] for word in told["words"]][:2] == [True, False]
    segment = told["segments"][0]
    assert set(segment) >= {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob"}
    assert segment["text"] == "word0."
    alone = ask(speech(3), CUT, response_format="verbose_json").json()
    assert "words" not in alone
    assert alone["segments"] == told["segments"]


def test_subtitles(ask, speech):
    srt = ask(speech(3), CUT, response_format="srt").text
    assert srt.startswith("1\n00:00:01,")
    assert "\n\n2\n00:00:02," in srt
    vtt = ask(speech(3), CUT, response_format="vtt")
    assert vtt.text.startswith("WEBVTT\n\n00:00:01.")
    assert vtt.headers["content-type"].startswith("text/vtt")
    assert ask(speech(), response_format="text").text.endswith(".\n")


def test_logprobs_are_of_words(ask, speech):
    told = ask(speech(), **{"include[]": "logprobs"}).json()["logprobs"]
    assert told[1]["token"] == "word1."
    assert np.exp(told[1]["logprob"]) == pytest.approx(0.9)


def test_a_stream_tells_the_text_as_it_comes(ask, speech, listener):
    answer = ask(speech(20), {"max_piece_seconds": 8}, stream="true")
    *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    events = [json.loads(each) for each in events]
    assert [each["type"] for each in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert len(events) > 3
    assert events[-1]["type"] == "transcript.text.done"
    assert "".join(each["delta"] for each in events[:-1]) == events[-1]["text"]
    assert len({stream for _, stream, _ in listener.given}) == 1
    assert [admitted for _, _, admitted in listener.given] == [False] + [True] * (len(listener.given) - 1)


def test_silence_is_not_listened_to(ask, listener):
    assert ask(wav(np.zeros(3 * SAMPLE_RATE_HZ, np.float32))).json()["text"] == ""
    assert listener.given == []


@pytest.mark.parametrize(
    ("fields", "status", "param", "message"),
    [
        ({"model": "whisper-1"}, 404, "model", "this server has medical-asr"),
        ({"language": "fr"}, 400, "language", "it hears en"),
        ({"language": "../etc"}, 400, "language", "pattern"),
        ({"response_format": "xml"}, 400, "response_format", "Input should be"),
        ({"response_format": "diarized_json"}, 400, "response_format", "needs a diariser"),
        ({"timestamp_granularities[]": "word"}, 400, "timestamp_granularities[]", "need response_format verbose_json"),
        ({"timestamp_granularities[]": "hour"}, 400, "timestamp_granularities[]", "Input should be"),
        ({"include[]": "logprobs", "response_format": "text"}, 400, "include[]", "needs response_format json"),
        ({"languages[]": ["fr", "de"]}, 400, "languages[]", "hears en"),
        ({"known_speaker_names[]": "ann"}, 400, "known_speaker_names[]", "are not told apart"),
        ({"keywords[]": "a" * 101}, 400, "keywords[]", "101 characters"),
        ({"keywords[]": [f"{n}" for n in range(501)]}, 400, "keywords[]", "501 phrases"),
        ({"temperature": "2"}, 400, "temperature", "less than or equal to 1"),
        ({"stream": "true", "response_format": "srt"}, 400, "stream", "json or text"),
        ({"chunking_strategy": "never"}, 400, "chunking_strategy", "Input should be 'auto'"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "2"}, 400, None, "less than"),
        ({"path": "/v1/audio/translations"}, 400, "model", "use /v1/audio/transcriptions"),
        ({"path": "/v1/nothing"}, 404, None, "Not Found"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_shape(ask, speech, listener, fields, status, param, message):
    answer = ask(speech(), **fields)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert param is None or error["param"] == param
    assert answer.headers["x-request-id"]
    assert listener.given == []


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "is not audio that can be read"),
        (b"not audio", 400, "is not audio that can be read"),
        (bytes(1_200_000), 413, "larger than 1 MB"),
        (wav(np.zeros(31 * SAMPLE_RATE_HZ, np.float32)), 400, "is longer than 30 s"),
    ],
)
def test_a_bad_file_is_refused(ask, content, status, message):
    answer = ask(content, {"max_upload_mb": 1, "max_audio_seconds": 30})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, "file")
    assert message in answer.json()["error"]["message"]


def test_a_full_queue_is_answered_by_429_streams_too(ask, speech, listener):
    for fields in ({}, {"stream": "true"}):
        listener.answers = [Refusal(7.4)]
        answer = ask(speech(), **fields)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_fault_behind_it_says_nothing_of_the_audio(speech):
    async def broken(model_id, samples, stream, admitted, context):
        raise RuntimeError("losartan")

    api = application(Listener(broken))

    async def main():
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(URL, files={"file": ("a.wav", speech())}, data={"model": "medical-asr"})

    answer = asyncio.run(main())
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "losartan" not in answer.text
    assert answer.headers["x-request-id"]


def test_a_fault_in_the_middle_of_a_stream_is_told(ask, speech, listener):
    class Dies(Listener):
        async def transcribe(self, model_id, samples, stream, admitted, context):
            if admitted:
                raise RuntimeError("losartan")
            return await super().transcribe(model_id, samples, stream, admitted, context)

    answer = ask(speech(20), {"max_piece_seconds": 8}, recogniser=Dies(), stream="true")
    first, *_, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert json.loads(first)["type"] == "transcript.text.delta"
    assert json.loads(last)["error"]["type"] == "server_error"
    assert "losartan" not in answer.text


def test_who_hangs_up_is_not_listened_to_any_more(speech):
    """The pieces that are on their way are cancelled, and no more are sent."""
    started, cancelled = [], []

    async def listen(model_id, samples, stream, admitted, context):
        started.append(stream)
        if not admitted:
            return Heard("", ())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(stream)
            raise

    async def main():
        ear = Ear(ServeConfig(max_piece_seconds=8), Listener(listen), IngressMetrics())
        parts = ear.hear(io.BytesIO(speech(60)), "medical-asr")
        await anext(parts)
        task = asyncio.ensure_future(anext(parts))
        while len(started) < 5:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.aclose()

    asyncio.run(main())
    assert len(started) == 5
    assert len(cancelled) == 4


def test_one_request_too_many_at_a_time_is_turned_away(speech, listener):
    waits = asyncio.Event()

    async def listen(model_id, samples, stream, admitted, context):
        await waits.wait()
        return Heard("heard")

    async def main():
        transport = httpx.ASGITransport(application(Listener(listen), max_open_requests=1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            ask = partial(client.post, URL, data={"model": "medical-asr"})
            first = asyncio.ensure_future(ask(files={"file": ("a.wav", speech())}))
            await asyncio.sleep(0)
            turned = await ask(files={"file": ("a.wav", speech())})
            waits.set()
            return turned.status_code, (await first).status_code

    assert asyncio.run(main()) == (429, 200)


def test_a_body_that_never_ends_is_cut_off_whatever_its_header_says(listener):
    """Without a content-length, as with chunked transfer: the limit holds while it comes."""
    taken = 0

    async def endless():
        nonlocal taken
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while taken < 50_000_000:
            taken += 100_000
            yield bytes(100_000)

    async def main():
        api = application(listener, max_upload_mb=1)
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            return await client.post(URL, content=endless(), headers=headers)

    answer = asyncio.run(main())
    assert answer.status_code == 413
    assert taken < 2_000_000


def test_a_client_that_sends_too_slowly_is_not_waited_for(listener):
    async def slow():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(1_000):
            await asyncio.sleep(0.01)
            yield b"x"

    async def main():
        api = application(listener, max_upload_seconds=0.1)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            return await client.post(URL, content=slow(), headers=headers)

    assert asyncio.run(main()).status_code == 408


@pytest.mark.parametrize(("there", "status"), [(True, 200), (False, 503)])
def test_readiness_is_that_of_the_recognisers_and_health_is_our_own(there, status):
    async def main():
        transport = httpx.ASGITransport(application(Listener(there=there)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/readyz"), await client.get("/healthz")

    readiness, health = asyncio.run(main())
    assert (readiness.status_code, health.status_code) == (status, 200)


def test_no_cache_keeps_an_answer(ask, speech):
    assert ask(speech()).headers["cache-control"] == "no-store"


def test_serves_own_commands_start_the_application_with_the_settings_they_are_given(tmp_path):
    from serve.app import app

    (tmp_path / "model.nemo").touch()
    models = [{"name": "medical-asr", "source": str(tmp_path / "model.nemo")}]
    settings = {"models": models, "allow_unreleased": True}
    assert app(settings | {"allow_anonymous": True})._bound_deployment.name == "_Ingress"
    with pytest.raises(UserError, match="set keys_file, or allow_anonymous"):
        app(settings)
    with pytest.raises(ValueError, match="allow_unreleased"):
        app({"models": models})


@pytest.mark.parametrize(("queued", "copies"), [({}, 0), ({"a": 30.0}, 1), ({"a": 50.0, "b": 11.0}, 3)])
def test_there_are_as_many_copies_as_have_enough_to_listen_to(queued, copies):
    from types import SimpleNamespace

    from serve.scaling import PENDING_SECONDS, PendingAudioPolicy

    told = SimpleNamespace(aggregated_metrics={PENDING_SECONDS: queued})
    assert PendingAudioPolicy(target_seconds=30)(told) == (copies, {})


def test_keywords_and_the_phrases_of_a_prompt_are_likely_to_be_said(ask, speech, listener):
    prompt = "The patient takes many drugs every day: losartan, Metoprolol  succinate;\nlosartan."
    answer = ask(speech(), prompt=prompt, **{"keywords[]": ["amiodarone", " "]})
    assert answer.status_code == 200
    (context,) = listener.contexts
    assert context.prompt == prompt
    assert context.phrases == ("amiodarone", "losartan", "Metoprolol succinate")


def test_a_model_that_cannot_be_told_what_is_likely_says_so(ask, speech, listener):
    listener.answers = [ContextRefused()]
    answer = ask(speech(), **{"keywords[]": "losartan"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "keywords[]")


class Handle:
    """A handle of Ray Serve's whose calls end as they are told to."""

    def __init__(self, *ends):
        self.ends, self.transcribe = list(ends), self

    def options(self, multiplexed_model_id):
        assert multiplexed_model_id == "medical-asr:1"
        return self

    def remote(self, *_):
        return self

    def __await__(self):
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end
        yield  # makes it a generator


@pytest.mark.parametrize("lost", ["dead", "unavailable", "broken"])
def test_what_a_lost_recogniser_had_is_given_to_another_once(lost):
    from grpc import StatusCode
    from grpc.aio import AioRpcError, Metadata
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    from serve.app import _Ingress

    death = {
        "dead": ActorDiedError(),
        "unavailable": ActorUnavailableError("gone", None),
        "broken": AioRpcError(StatusCode.INTERNAL, Metadata(), Metadata()),
    }[lost]
    heard = Heard("hello")

    def ask(*ends):
        ingress = _Ingress(ServeConfig(), Path(), Handle(*ends))
        return asyncio.run(ingress.transcribe("medical-asr:1", np.zeros(1, np.int16), "a", True, ()))

    assert ask(death, heard) == heard
    with pytest.raises(type(death)):
        ask(death, death, heard)


def part(head, content=b"x"):
    return b"--b\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"


FILE = part(b'name="file"; filename="a.wav"', wav(np.zeros(SAMPLE_RATE_HZ, np.float32)))
MODEL = part(b'name="model"', b"medical-asr")
FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("parts", "kind", "status", "message"),
    [
        ([part(b'name="file"; filename="\xff\xfe.wav"', FILE.partition(b"\r\n\r\n")[2][:-2]), MODEL], FORM, 200, ""),
        ([FILE, MODEL, part(b'name="\xff\xfe"', b"\xff\xfa"), part(b'name="prompt"', b"a\0b\xff")], FORM, 200, ""),
        ([FILE, MODEL, *(part(b'name="f%d"' % n) for n in range(999))], FORM, 200, ""),
        ([FILE, MODEL, *(part(b'name="f%d"' % n) for n in range(1000))], FORM, 400, "Too many fields"),
        ([FILE, MODEL, part(b'name="prompt"', bytes(2_000_000))], FORM, 400, "exceeded maximum size"),
        ([MODEL, part(b'name="file"', b"text")], FORM, 400, "Expected UploadFile"),
        ([FILE, part(b'name="model"; filename="m"')], FORM, 400, "should be a valid string"),
        ([FILE, MODEL], "multipart/form-data", 400, "Missing boundary"),
        ([FILE, MODEL], "multipart/form-data; boundary=other", 400, "Invalid multipart data"),
        ([b'{"model": "medical-asr"}'], "application/json", 400, "must be multipart/form-data, not application/json"),
        ([FILE, MODEL], "", 400, "not of no type"),
        ([b""], FORM, 400, "Field required"),
    ],
)
def test_a_form_that_is_none_costs_nothing_but_itself(listener, parts, kind, status, message):
    async def main():
        transport = httpx.ASGITransport(application(listener), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            send = partial(client.post, URL, headers={"content-type": kind} if kind else {})
            return await send(content=b"".join([*parts, b"--b--\r\n"])), await client.get("/healthz")

    answer, after = asyncio.run(main())
    assert (answer.status_code, after.status_code) == (status, 200), answer.text
    if status != 200:
        assert message in answer.json()["error"]["message"]


def test_hours_in_a_small_file_are_decoded_up_to_the_limit_only(ask, listener):
    """Opus of silence: a hundredth of a byte per sample."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=16_000, layout="mono", options={"vbr": "on", "dtx": "1"})
        for second in range(1200):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 16_000 * second
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(file.getvalue()) < 300_000
    answer = ask(file.getvalue(), {"max_audio_seconds": 60})
    assert answer.status_code == 400
    assert "is longer than 60 s" in answer.json()["error"]["message"]
    assert listener.given == []


def test_the_api_is_what_its_description_says():
    """But for what no description can say: which bytes are audio, and which models there are."""
    described = schemathesis.openapi.from_asgi("/openapi.json", application(Listener()))
    operations = [found.ok() for found in described.get_all_operations()]
    assert {operation.label for operation in operations} > {"POST /v1/audio/transcriptions", "GET /v1/models/{model}"}
    for operation in operations:

        @hypothesis.settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy())
        def keeps_to_it(case):
            unsaid = [positive_data_acceptance] if case.method == "POST" or case.path_parameters else []
            case.call_and_validate(excluded_checks=unsaid)

        keeps_to_it()
