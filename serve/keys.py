"""Who may ask: API keys, of which the server has the hashes alone."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import Field, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from rayapp.config import StepConfig
from rayapp.errors import UserError
from serve.errors import ApiError

_MINUTE_SECONDS = 60.0


class KeyEntry(StepConfig):
    """What a file of keys says of each."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")
    """Who has it; logs name it so."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the key, in hexadecimal; `rayapp api-key` makes both. Keys are long and random: no slow hash is needed."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """More are answered by 429. Each ingress counts by itself."""
    concurrent: int | None = Field(default=None, ge=1)
    """More at a time are answered by 429."""
    expires: datetime.date | None = None
    """From that day on it is not taken any more."""


class Keys:
    """The keys of a file, and how much each was used of late."""

    def __init__(self, entries: list[KeyEntry]) -> None:
        self._entries = entries
        self._running = Counter[str]()
        self._asked: dict[str, deque[float]] = {entry.name: deque() for entry in entries}

    @contextmanager
    def admitted(self, authorization: str | None) -> Iterator[str]:
        """Lets a request in for the length of the block; gives the name of its key.

        authorization: the header. Raises `ApiError`: 401 for no key, or one that is unknown or expired; 429 for a key
        that is used too much.
        """
        entry = self._entry(authorization)
        asked, now = self._asked[entry.name], time.monotonic()
        while asked and now - asked[0] >= _MINUTE_SECONDS:
            asked.popleft()
        if entry.requests_per_minute is not None and len(asked) >= entry.requests_per_minute:
            raise _too_many(f"{entry.requests_per_minute} requests a minute", _MINUTE_SECONDS - (now - asked[0]))
        if entry.concurrent is not None and self._running[entry.name] >= entry.concurrent:
            raise _too_many(f"{entry.concurrent} requests at a time", 1.0)
        asked.append(now)
        self._running[entry.name] += 1
        try:
            yield entry.name
        finally:
            self._running[entry.name] -= 1

    def _entry(self, authorization: str | None) -> KeyEntry:
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "no API key was sent; send `Authorization: Bearer KEY`", None, "missing_api_key")
        sent = _hash(key.strip())
        matching = [entry for entry in self._entries if hmac.compare_digest(entry.sha256, sent)]  # all are looked at
        if not matching:
            raise ApiError(401, "the API key is not known", None, "invalid_api_key")
        if matching[0].expires is not None and matching[0].expires <= datetime.datetime.now(datetime.UTC).date():
            raise ApiError(401, f"the API key expired on {matching[0].expires}", None, "expired_api_key")
        return matching[0]


class Authentication:
    """ASGI middleware: who has no key is turned away before anything is taken in. Health and documentation are open."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        try:
            with self.keys.admitted(sent) as name:
                scope.setdefault("state", {})["key"] = name
                await self.app(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)


def read_keys(path: Path) -> Keys:
    """From a YAML file: a list of entries. Raises `UserError` for what is none."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the file of API keys, {path}, cannot be read: {error}") from None
    except yaml.YAMLError as error:  # its message shows the line
        mark = getattr(error, "problem_mark", None)
        place = f" after line {mark.line + 1}" if mark else ""
        raise UserError(f"the file of API keys, {path}, cannot be read: it is no YAML{place}") from None
    if not isinstance(told, list) or not told:
        raise UserError(f"the file of API keys, {path}, must be a list of entries; `rayapp api-key NAME` writes one")
    try:
        entries = [KeyEntry.model_validate(entry) for entry in told]
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # what was put there by mistake may be a key
        raise UserError(f"the file of API keys, {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for field in ("name", "sha256"):
        times = Counter(getattr(entry, field) for entry in entries)
        if twice := [value for value, count in times.items() if count > 1]:
            raise UserError(f"the file of API keys, {path}, has {field} {twice[0]} twice")
    return Keys(entries)


def new_key() -> tuple[str, str]:
    """A key of 256 random bits, and its hash."""
    key = f"rk-{secrets.token_urlsafe(32)}"
    return key, _hash(key)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _too_many(limit: str, seconds: float) -> ApiError:
    wait = max(1, round(seconds))
    return ApiError(
        429,
        f"the API key has a limit of {limit}; try again in {wait} s",
        None,
        "rate_limit_exceeded",
        {"retry-after": f"{wait}"},
    )
