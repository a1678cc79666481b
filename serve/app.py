"""The application: an ingress that speaks OpenAI's API, and a recogniser behind it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from numpy.typing import NDArray
from ray.serve import Application, deployment, ingress
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ, Audio
from serve.config import ServeConfig

INGRESS_CPUS = 0.1
api = FastAPI(title="rayapp", docs_url="/docs")


class ApiError(Exception):
    """Answered in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def _error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
    return JSONResponse(body, status_code=error.status, headers=_request_id() | dict(headers or {}))


def _request_id() -> dict[str, str]:
    return {"x-request-id": f"req_{uuid.uuid4().hex}"}


@api.exception_handler(ApiError)
async def _on_api_error(_request: Request, error: ApiError) -> JSONResponse:
    return _error_response(error)


@api.exception_handler(RequestValidationError)
async def _on_validation_error(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return _error_response(ApiError(400, f"{param}: {first['msg']}", param=param))


@api.exception_handler(HTTPException)
async def _on_http_error(_request: Request, error: HTTPException) -> JSONResponse:
    return _error_response(ApiError(error.status_code, str(error.detail)), error.headers)


@api.exception_handler(Exception)
async def _on_fault(_request: Request, _error: Exception) -> JSONResponse:
    return _error_response(ApiError(500, "a fault of the server; its log has the rest"))


@api.middleware("http")
async def _name_request(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    if "x-request-id" not in response.headers:
        response.headers.update(_request_id())
    return response


class _Recogniser:
    """One model in one process; a single thread runs it."""

    def __init__(self, path: Path, device: str) -> None:
        from rayapp.asr.open import open_recogniser

        self.recogniser = open_recogniser(path, device)
        self.recogniser.transcribe([np.zeros(SAMPLE_RATE_HZ, np.float32)])  # the first call is slow: not a client's
        self._device = asyncio.Lock()

    async def transcribe(self, samples: NDArray[np.int16]) -> dict[str, Any]:
        """samples: (samples,) int16 at 16 kHz; half of what float32 would take between processes."""
        audio = samples.astype(np.float32) / 32768
        async with self._device:
            (heard,) = await asyncio.to_thread(self.recogniser.transcribe, [audio], times=True)
        words = [{"word": w.text, "start": w.start_seconds, "end": w.end_seconds} for w in heard.words]
        return {"text": heard.text, "words": words}


class _Transcriptions:
    """Checks and decodes what comes in, and shapes what goes out."""

    def __init__(self, config: ServeConfig, recogniser: DeploymentHandle) -> None:
        self.config = config
        self.recogniser = recogniser

    @api.post("/v1/audio/transcriptions", response_model=None)
    async def transcribe(
        self,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()],
        response_format: Annotated[Literal["json", "text", "verbose_json"], Form()] = "json",
    ) -> Response:
        self._require_model(model)
        audio = await asyncio.to_thread(self._decode, await self._read(file))
        samples = (np.clip(np.nan_to_num(audio), -1, 1) * 32767).astype(np.int16)  # decoders overshoot full scale
        heard = await self.recogniser.transcribe.remote(samples)
        seconds = round(len(audio) / SAMPLE_RATE_HZ, 3)
        if response_format == "text":
            return PlainTextResponse(heard["text"] + "\n")
        usage = {"type": "duration", "seconds": seconds}
        if response_format == "json":
            return JSONResponse({"text": heard["text"], "usage": usage})
        return JSONResponse(heard | {"task": "transcribe", "language": "english", "duration": seconds, "usage": usage})

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._model()]}

    @api.get("/v1/models/{model}")
    async def model(self, model: str) -> dict[str, Any]:
        self._require_model(model)
        return self._model()

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        return {"status": "ok"}

    def _model(self) -> dict[str, Any]:
        return {"id": self.config.model_name, "object": "model", "created": 0, "owned_by": "rayapp"}

    def _require_model(self, model: str) -> None:
        if model != self.config.model_name:
            raise ApiError(
                404,
                f"model {model!r} does not exist; this server has {self.config.model_name}",
                "model",
                "model_not_found",
            )

    async def _read(self, file: UploadFile) -> bytes:
        limit = self.config.max_upload_mb * 1_000_000
        content = await file.read(limit + 1)
        if len(content) > limit:
            raise ApiError(413, f"the file is larger than {self.config.max_upload_mb} MB", "file")
        if not content:
            raise ApiError(400, "the file is empty", "file")
        return content

    def _decode(self, content: bytes) -> Audio:
        from rayapp.audio.codec import decode

        try:
            return decode(content, name="the file", max_seconds=self.config.max_audio_seconds)
        except UserError as error:
            raise ApiError(400, str(error), "file") from None


Recogniser = deployment(max_ongoing_requests=16, max_queued_requests=64)(_Recogniser)
Transcriptions = deployment(max_ongoing_requests=64)(ingress(api)(_Transcriptions))


def build(config: ServeConfig, model: Path) -> Application:
    """The application for a model file that was resolved already."""
    recogniser = Recogniser.options(
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    ).bind(model.absolute(), "cuda" if config.gpus_per_replica else "cpu")
    return Transcriptions.options(ray_actor_options={"num_cpus": INGRESS_CPUS}).bind(config, recogniser)
