"""The routes of OpenAI's audio API, in front of a recogniser."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from rayapp.asr.context import Context
from rayapp.asr.long_audio import Cutting
from rayapp.asr.recogniser import Heard, Word
from rayapp.asr.subtitles import as_srt, as_vtt
from serve import formats
from serve.config import ServeConfig
from serve.errors import ApiError, ErrorAnswer, a_fault, install
from serve.keys import Authentication, read_keys
from serve.metrics import CONTENT_TYPE, IngressMetrics, exposition
from serve.models import Catalogue, ServedModel
from serve.observation import Observation
from serve.retention import Archive
from serve.transcription import Ear, Recognisers, all_of
from serve.upload_limits import UploadLimits

ResponseFormat: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
_ERRORS: dict[int | str, dict[str, Any]] = {
    kind: {"model": ErrorAnswer, "description": f"{whose} fault, in OpenAI's shape."}
    for kind, whose in (("4XX", "The client's"), ("5XX", "The server's"))
}
_TRANSCRIPTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What was said, in the format that was asked for, or as it is heard.",
        "content": {kind: {} for kind in ("application/json", "text/plain", "text/vtt", "text/event-stream")},
    }
}
MODEL = "x-rayapp-model"
"""Header that tells which version of a model listened."""
_VAD_THRESHOLD = Cutting.threshold
_log = logging.getLogger(f"ray.{__name__}")
_MOST_PHRASES, _LONGEST_PHRASE = 500, 100


@dataclasses.dataclass
class TranscriptionForm:
    """The fields of a transcription. Names of lists carry `[]`, those of `chunking_strategy` its brackets."""

    file: Annotated[UploadFile, File(description="Audio of any usual format, 8–48 kHz.")]
    model: Annotated[str, Form(min_length=1)]
    language: Annotated[str | None, Form(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z]+)?$")] = None
    prompt: Annotated[str | None, Form(description="What was said before, or what is likely to be said.")] = None
    response_format: Annotated[ResponseFormat, Form()] = "json"
    temperature: Annotated[float, Form(ge=0, le=1, description="Has no effect: decoding is greedy.")] = 0.0
    stream: Annotated[bool, Form()] = False
    granularities: Annotated[tuple[Literal["word", "segment"], ...], Form(alias="timestamp_granularities[]")] = ()
    include: Annotated[tuple[Literal["logprobs"], ...], Form(alias="include[]")] = ()
    languages: Annotated[tuple[str, ...], Form(alias="languages[]")] = ()
    speakers: Annotated[tuple[str, ...], Form(alias="known_speaker_names[]")] = ()
    voices: Annotated[tuple[str, ...], Form(alias="known_speaker_references[]")] = ()
    keywords: Annotated[tuple[str, ...], Form(alias="keywords[]")] = ()
    strategy: Annotated[Literal["auto"] | None, Form(alias="chunking_strategy")] = None
    vad: Annotated[Literal["server_vad"] | None, Form(alias="chunking_strategy[type]")] = None
    vad_threshold: Annotated[float, Form(alias="chunking_strategy[threshold]", ge=0, le=1)] = _VAD_THRESHOLD
    vad_padding_ms: Annotated[int, Form(alias="chunking_strategy[prefix_padding_ms]", ge=0, le=3000)] = 300
    vad_silence_ms: Annotated[int, Form(alias="chunking_strategy[silence_duration_ms]", ge=100, le=5000)] = 500

    def check(self, heard: str) -> None:
        """Raises `ApiError` for what this server cannot do: what is asked for is done, or refused.

        heard: the language that the model hears.
        """
        if self.language and _language(self.language) != heard:
            raise ApiError(
                400, f"language {self.language!r} is not heard by {self.model}; it hears {heard}", "language"
            )
        if self.languages and heard not in [_language(each) for each in self.languages]:
            raise ApiError(400, f"{self.model} hears {heard}, which is not among languages[]", "languages[]")
        if self.speakers or self.voices:
            raise ApiError(400, "speakers are not told apart; leave known_speaker_… out", "known_speaker_names[]")
        phrases = self.context.phrases
        if len(phrases) > _MOST_PHRASES:
            raise ApiError(400, f"there are {len(phrases)} phrases; {_MOST_PHRASES} can be given", "keywords[]")
        if longest := next((phrase for phrase in phrases if len(phrase) > _LONGEST_PHRASE), None):
            message = f"a phrase has {len(longest)} characters; {_LONGEST_PHRASE} can be taken"
            raise ApiError(400, message, "keywords[]")
        if self.response_format == "diarized_json":
            raise ApiError(
                400,
                "diarized_json needs a diariser, which this server has not; ask for verbose_json",
                "response_format",
            )
        if self.granularities and self.response_format != "verbose_json":
            raise ApiError(
                400, "timestamp_granularities[] need response_format verbose_json", "timestamp_granularities[]"
            )
        if self.include and self.response_format != "json":
            raise ApiError(400, "include[]=logprobs needs response_format json", "include[]")
        if self.stream and self.response_format not in ("json", "text"):
            raise ApiError(400, f"stream needs response_format json or text, not {self.response_format}", "stream")

    @property
    def context(self) -> Context:
        return Context(self.keywords, self.prompt or "")

    def cutting(self, config: ServeConfig) -> Cutting | None:
        """Where the client wants the audio cut; None where it does not care."""
        if self.vad is None:
            return None
        return Cutting(
            config.max_piece_seconds,
            self.vad_threshold,
            self.vad_silence_ms / 1000,
            self.vad_padding_ms / 1000,
            short_stays_whole=False,
        )


def build_api(config: ServeConfig, catalogue: Catalogue, recognisers: Recognisers, metrics: IngressMetrics) -> ASGIApp:
    """The whole server, but for where it listens."""
    archive = Archive(config.retention) if config.retention else None

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(catalogue.follow(recognisers.prepare, metrics.failed_updates.inc))]
        if archive:
            tasks.append(asyncio.create_task(archive.clear()))
        yield
        for task in tasks:
            task.cancel()

    api = FastAPI(title="rayapp", lifespan=lifespan, responses=_ERRORS)
    install(api)
    ear = Ear(config, recognisers, metrics)

    @api.post("/v1/audio/transcriptions", response_model=None, responses=_TRANSCRIPTS)
    async def transcribe(request: Request, form: Annotated[TranscriptionForm, Depends()]) -> Response:
        metrics.stage_seconds.observe(time.perf_counter() - request.state.began, {"stage": "upload"})
        model = _named(form.model, catalogue)
        request.state.model = model.id
        form.check(model.language)
        parts = ear.hear(form.file.file, model.id, form.cutting(config), form.context)
        headers = {MODEL: model.id}

        async def done(text: str, seconds: float) -> None:
            request.state.audio_seconds = seconds
            if archive:
                await _keep(archive, request, form, text, metrics)

        if form.stream:
            first = await anext(parts)  # what is refused is refused by its status
            events = _events(first, parts, form, request, done)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        heard, seconds = await all_of(parts)
        await done(heard.text, seconds)
        answer = _answer(form, formats.Transcript(heard.text, heard.words, seconds, model.language), config)
        answer.headers.update(headers)
        return answer

    @api.post("/v1/audio/translations", response_model=None)
    async def translate(file: Annotated[UploadFile, File()], model: Annotated[str, Form(min_length=1)]) -> Response:
        _named(model, catalogue)
        raise ApiError(
            400, f"{model} writes what is said in the language it is said in; use /v1/audio/transcriptions", "model"
        )

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_told(each) for each in catalogue.current.values()]}

    @api.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        return _told(_named(model, catalogue))

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> dict[str, str]:
        if not await recognisers.is_ready():
            raise ApiError(503, "no recogniser is ready; try again in some seconds", None, "not_ready")
        return {"status": "ready"}

    @api.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(await exposition(), media_type=CONTENT_TYPE)

    app: ASGIApp = UploadLimits(
        api, config.max_upload_mb * 1_000_000, config.max_upload_seconds, config.max_open_requests
    )
    if config.keys_file:
        app = Authentication(app, read_keys(config.keys_file))
    return Observation(app, metrics, api.routes)


def _language(tag: str) -> str:
    """
    >>> _language("en-US")
    'en'
    """
    return tag.lower().replace("_", "-").partition("-")[0]


def _named(name: str, catalogue: Catalogue) -> ServedModel:
    """Raises `ApiError` for a model that is not served."""
    if name not in catalogue.current:
        message = f"model {name!r} does not exist; this server has {', '.join(catalogue.current)}"
        raise ApiError(404, message, "model", "model_not_found")
    return catalogue.current[name]


def _told(model: ServedModel) -> dict[str, Any]:
    """`version` is ours: which one the alias points to in the registry."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "rayapp",
        "version": model.version or None,
    }


def _answer(form: TranscriptionForm, told: formats.Transcript, config: ServeConfig) -> Response:
    if form.response_format == "text":
        return PlainTextResponse(told.text + "\n")
    if form.response_format == "srt":
        return PlainTextResponse(as_srt(told.words))
    if form.response_format == "vtt":
        return PlainTextResponse(as_vtt(told.words), media_type="text/vtt")
    if form.response_format == "verbose_json":
        return JSONResponse(formats.as_verbose_json(told, form.granularities, form.temperature, config.uncertain_below))
    return JSONResponse(formats.as_json(told, bool(form.include)))


async def _events(
    first: Heard | float,
    following: AsyncIterator[Heard | float],
    form: TranscriptionForm,
    request: Request,
    done: Callable[[str, float], Awaitable[None]],
) -> AsyncIterator[str]:
    texts, words = list[str](), list[Word]()
    try:
        async for part in _chained(first, following):
            if isinstance(part, float):
                whole: dict[str, Any] = {"text": " ".join(texts)}  # OpenAI's usage has tokens here, not seconds
                if form.include:
                    whole["logprobs"] = formats.word_logprobs(words)
                await done(whole["text"], part)
                yield formats.event("transcript.text.done", **whole)
            elif part.text:
                delta: dict[str, Any] = {"delta": (" " if texts else "") + part.text}
                if form.include:
                    delta["logprobs"] = formats.word_logprobs(part.words)
                texts.append(part.text)
                words += part.words
                yield formats.event("transcript.text.delta", **delta)
    except Exception as error:  # the status was sent already
        told = error if isinstance(error, ApiError) else a_fault(error)
        request.state.status = told.status
        yield formats.event("error", **told.body())
        return
    yield "data: [DONE]\n\n"


async def _keep(
    archive: Archive, request: Request, form: TranscriptionForm, text: str, metrics: IngressMetrics
) -> None:
    """For audits. Where it cannot be written, the answer is given all the same, and the operators are told."""
    state = request.state
    told = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(),
        "key": getattr(state, "key", ""),
        "model": state.model,
        "audio_seconds": state.audio_seconds,
        "keywords": form.keywords,
        "prompt": form.prompt,
        "text": text,
    }
    try:
        await form.file.seek(0)
        await asyncio.to_thread(archive.keep, state.request_id, told, await form.file.read())
    except OSError as error:
        metrics.not_kept.inc()
        _log.error("a request was not kept for audits: %s", error.strerror)


async def _chained(first: Heard | float, following: AsyncIterator[Heard | float]) -> AsyncIterator[Heard | float]:
    async with aclosing(following):  # type: ignore[type-var]
        yield first
        async for part in following:
            yield part
