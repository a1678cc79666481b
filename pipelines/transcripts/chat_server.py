"""One OpenAI-compatible server that answers chats: retries, pace, and errors in words."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.transcripts.config import OpenAIConfig
from rayapp.errors import RejectedError, UserError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_LISTED = 20
"""Models that an error names at most."""
_QUOTED = 200
"""Characters of a server's own words that an error quotes at most."""


class ChatServer:
    """Asks a server of the OpenAI API: a hosted one, vLLM, SGLang, llama.cpp, Ollama, LiteLLM.

    The client tries again after connection errors, timeouts, 408, 409, 429 and 5xx: so long after as `Retry-After`
    says, else after exponentially more. Safe to use from several threads.
    """

    def __init__(self, config: OpenAIConfig) -> None:
        import openai

        self.config = config
        self._pace = _Pace(config.requests_per_minute)
        self._takes_schema = True
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=os.environ.get(config.api_key_variable) or "none",  # servers without keys ignore it
            max_retries=config.retries,
            timeout=config.timeout_seconds,
            # Counted here, so that each try counts.
            http_client=openai.DefaultHttpx2Client(event_hooks={"request": [lambda _: self._pace.wait()]}),
        )

    def check(self) -> None:
        """Raises `UserError` where the server cannot be reached, refuses the key, or has no such model for chats."""
        with self._explained():
            models = sorted(model.id for model in self._client.models.list())
        self._require_model(models)
        with self._explained():
            self._complete([{"role": "user", "content": "Say yes."}], temperature=self.config.temperature, seed=0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what the client raises into what its user can do about it."""
        import openai

        where, variable = self.config.base_url, self.config.api_key_variable
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            key = "the key in {}" if os.environ.get(variable) else "a request without a key: {} is not set"
            raise UserError(f"{where} refuses {key.format(variable)} (status {error.status_code})") from None
        except openai.APIConnectionError as error:
            raise UserError(f"{where} cannot be reached ({error}): is the server up, and base_url right?") from None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise UserError(f"{where} will not chat with {self.config.model}: {error.message[:_QUOTED]}") from None
        except (openai.RateLimitError, openai.InternalServerError) as error:
            raise UserError(f"{where} is not ready (status {error.status_code}): {error.message[:_QUOTED]}") from None
        except (openai.OpenAIError, AttributeError, ValueError) as error:  # pages of HTML with status 200 are strings
            what = getattr(error, "status_code", type(error).__name__)
            raise UserError(f"{where} is no OpenAI-compatible server ({what}): base_url usually ends in /v1") from None

    def _require_model(self, models: Sequence[str]) -> None:
        if self.config.model not in models:
            more = f" and {len(models) - _LISTED} more" if len(models) > _LISTED else ""
            listed = ", ".join(models[:_LISTED]) + more or "none"
            raise UserError(f"{self.config.base_url} has no model {self.config.model!r}; set model to one of: {listed}")

    def ask(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], seed: int, temperature: float
    ) -> str:
        """The answer to a chat, held to a JSON schema where the server can do that.

        Raises `RejectedError` where no answer is to be had.
        """
        import openai

        try:
            completion = self._in_form(messages, schema, seed=seed, temperature=temperature)
        except openai.APITimeoutError:
            raise RejectedError(f"no answer within {self.config.timeout_seconds:g} s") from None
        except openai.APIConnectionError:
            raise RejectedError("the server cannot be reached") from None
        except openai.APIStatusError as error:
            raise RejectedError(f"the server answered with status {error.status_code}") from None
        except (openai.OpenAIError, ValueError):
            raise RejectedError("what the server answered is no chat completion") from None
        return _content(completion)

    def _in_form(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], **sampling: Any
    ) -> ChatCompletion:
        import openai

        if self._takes_schema:
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
            try:
                return self._complete(messages, response_format=form, **sampling)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                completion = self._complete(messages, **sampling)
                self._takes_schema = False  # it was the schema that it refused: not asked again
                return completion
        return self._complete(messages, **sampling)

    def _complete(self, messages: Sequence[Mapping[str, str]], **request: Any) -> ChatCompletion:
        request |= {"model": self.config.model, "messages": list(messages)}
        return self._client.chat.completions.create(**request)


def _content(completion: Any) -> str:
    """The client does not check what it gets: servers have sent pages of HTML with status 200."""
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if message is None:
        raise RejectedError("what the server answered is no chat completion")
    content = getattr(message, "content", None)
    return content if isinstance(content, str) else ""


class _Pace:
    """Lets callers through evenly, so many a minute."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval_seconds = 60 / per_minute if per_minute else 0.0
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval_seconds
        time.sleep(max(0.0, turn - time.monotonic()))
