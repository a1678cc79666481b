"""No more of a request is taken in than the settings allow, and none for ever: a header may say anything."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError, busy

_FORM_BYTES = 100_000
"""What a form has besides its file."""


class UploadLimits:
    """ASGI middleware: 413 for a body that is too large, as soon as it is, 408 for one that takes too long, and 429 for
    one too many at a time."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float, max_requests: int) -> None:
        self.app, self.max_bytes, self.max_seconds = app, max_bytes + _FORM_BYTES, max_seconds
        self.max_requests, self._open = max_requests, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self._open >= self.max_requests:
            await busy(1.0).response()(scope, receive, send)
            return
        self._open += 1
        try:
            await self._limited(scope, receive, send)
        finally:
            self._open -= 1

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: ApiError | None = None
        received, whole, loop = 0, False, asyncio.get_running_loop()
        until = loop.time() + self.max_seconds

        async def limited() -> Message:
            nonlocal received, refused, whole
            if whole:  # from here on, only a hang-up comes
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                refused = ApiError(408, f"the request took longer than {self.max_seconds:g} s to arrive; send it again")
                return {"type": "http.disconnect"}
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self.max_bytes:
                refused = _too_large(self.max_bytes)
                return {"type": "http.disconnect"}
            return message

        async def answered(message: Message) -> None:
            if refused is None:
                await send(message)

        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and int(said) > self.max_bytes:
            await _too_large(self.max_bytes).response()(scope, receive, send)
            return
        try:
            await self.app(scope, limited, answered)
        except Exception:
            if refused is None:
                raise
        if refused is not None:
            await refused.response()(scope, receive, send)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the file is larger than {(max_bytes - _FORM_BYTES) / 1e6:g} MB", "file")
