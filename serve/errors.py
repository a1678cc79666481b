"""Errors as OpenAI's API has them, each with the ID of its request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

_log = logging.getLogger(f"ray.{__name__}")
_FORM = "multipart/form-data"
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorDetails(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    """The field that is to blame."""
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetails


class ApiError(Exception):
    """Answered in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        details = ErrorDetails(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorAnswer(error=details).model_dump()

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def busy(seconds: float) -> ApiError:
    """Too much to do; the official clients come again after so many seconds."""
    wait = max(1, round(seconds))
    return ApiError(
        429,
        f"the server has too much to do; try again in {wait} s",
        None,
        "rate_limit_exceeded",
        {"retry-after": f"{wait}"},
    )


def a_fault(error: Exception) -> ApiError:
    """What a client is told of a fault of ours: nothing of what was said to it may be in there."""
    _log.error("a request failed: %s", type(error).__name__)
    return ApiError(500, "a fault of the server; its log has the rest")


def install(api: FastAPI) -> None:
    """Every error gets OpenAI's shape, whoever raises it."""

    @api.exception_handler(ApiError)
    async def on_api_error(_request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @api.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        sent = request.headers.get("content-type", "")
        if request.method == "POST" and not sent.startswith(_FORM):
            return ApiError(400, f"the body must be {_FORM}, not {sent or 'of no type'}").response()
        first = error.errors()[0]
        param = next((str(place) for place in first["loc"][1:]), str(first["loc"][0]))
        return ApiError(400, f"{param}: {first['msg']}", param).response()

    @api.exception_handler(HTTPException)
    async def on_http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    @api.exception_handler(Exception)
    async def on_fault(_request: Request, error: Exception) -> JSONResponse:
        return a_fault(error).response()
