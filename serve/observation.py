"""Every request gets a name, is counted and timed, and leaves a line in the log. None of it tells what was said."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.metrics import IngressMetrics

REQUEST_ID = "x-request-id"
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_HUNG_UP = 499
"""As nginx has it: whoever asked has gone before there was an answer."""
_log = logging.getLogger(f"ray.{__name__}")


class Observation:
    """ASGI middleware, around all others: what they refuse is seen, too.

    What the log and the metrics are to have of a request, others put into its state: `key`, `model`, `audio_seconds`,
    and the `status` of what was refused after a stream had begun with 200.
    `began` and `request_id` are put there for them.
    """

    def __init__(self, app: ASGIApp, metrics: IngressMetrics, routes: Sequence[BaseRoute]) -> None:
        self.app, self._metrics, self._routes = app, metrics, routes
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, added = time.perf_counter(), _HUNG_UP, list(_HEADERS)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["began"] = began
        state["request_id"] = dict(scope["headers"]).get(REQUEST_ID.encode(), b"").decode("latin-1")
        if not state["request_id"]:  # Ray's proxy names requests, too: then its name stays
            state["request_id"] = uuid.uuid4().hex
            added.append((REQUEST_ID.encode(), state["request_id"].encode()))

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        self._count(1)
        try:
            await self.app(scope, receive, told)
        except Exception:
            if status == _HUNG_UP:
                raise
            # It was answered, and its kind is in the log: Ray would put its message there, and into the trace.
        finally:
            self._count(-1)
            self._note(scope, state.get("status", status), time.perf_counter() - began)

    def _count(self, more: int) -> None:
        self._open += more
        self._metrics.open_requests.set(self._open)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path, state = self._path(scope), scope["state"]
        model = state.get("model", "")
        self._metrics.requests.inc(tags={"path": path, "model": model, "status": str(status)})
        self._metrics.request_seconds.observe(seconds, {"path": path})
        details = {
            "method": scope["method"],
            "path": path,
            "status": status,
            "seconds": round(seconds, 4),
            "audio_seconds": round(state.get("audio_seconds", 0.0), 3),
            "model": model,
            "key": state.get("key", ""),
        }
        _log.info("%(method)s %(path)s %(status)s", details, extra=details)

    def _path(self, scope: Scope) -> str:
        """As it is in the routes: what else a client may write there is nobody's business."""
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path", "other"))
        return "other"
