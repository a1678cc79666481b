"""From an upload to what was said in it, piece by piece, in bounded memory."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import BinaryIO, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rayapp.asr.context import NOTHING_KNOWN, Context
from rayapp.asr.long_audio import Cutting, Joiner, Piece, pieces_in_turns, whole
from rayapp.asr.recogniser import Heard
from rayapp.audio.stream import decoded
from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ, Audio
from serve.config import ServeConfig
from serve.errors import ApiError, busy
from serve.metrics import IngressMetrics
from serve.models import ServedModel
from serve.tracing import span

Samples: TypeAlias = "NDArray[np.int16]"
_PIECES_ON_THE_WAY = 4
"""Of one request: enough that the device need not wait, and few enough that hours of audio take no more room."""
_TURN_SECONDS = 0.05
"""For which a decoder works for one request, before it looks whether others wait."""
_END = object()


class Refusal(NamedTuple):
    """The recogniser has too much to do."""

    retry_after_seconds: float


class ContextRefused(NamedTuple):
    """The recogniser cannot be told what is likely to be said."""


Answer: TypeAlias = Heard | Refusal | ContextRefused


class Recognisers(Protocol):
    """Who listens, in this process or others."""

    async def transcribe(
        self, model_id: str, samples: Samples, stream: str, admitted: bool, context: Context
    ) -> Answer:
        """model_id: see `serve.models.ServedModel`.

        samples: (samples,) int16 at 16 kHz, half of what float32 would take between processes.

        stream: alike for the pieces of one request. admitted: whether one of them was let in already.
        context: what is known of the audio.
        """
        ...

    async def prepare(self, model: ServedModel) -> None:
        """Have a model loaded that is to be asked for soon. Raises what is wrong with it."""
        ...

    async def is_ready(self) -> bool:
        """Whether somebody is there to listen."""
        ...


class Ear:
    """Decodes, finds where somebody speaks, and has that listened to."""

    def __init__(self, config: ServeConfig, recognisers: Recognisers, metrics: IngressMetrics) -> None:
        self._config, self._recognisers, self._metrics = config, recognisers, metrics
        self._cutting = Cutting(max_seconds=config.max_piece_seconds)
        self._decoders = ThreadPoolExecutor(config.decoders, thread_name_prefix="decoder")

    async def hear(
        self, file: BinaryIO, model_id: str, cutting: Cutting | None = None, context: Context = NOTHING_KNOWN
    ) -> AsyncIterator[Heard | float]:
        """What is said, in order, as soon as it is certain; last of all, how many seconds the audio has.

        model_id: of the model that listens. cutting: where the audio is cut; without it, as the settings have it.
        context: what is known of the audio.

        Raises `ApiError` for what is no audio, or is too long, where the queue is full, and for a context that the
        recogniser cannot be told.
        """
        source, joiner = _Source(file, self._config, cutting or self._cutting), Joiner()
        listen = partial(self._listen, model_id=model_id, stream=uuid.uuid4().hex, context=context)
        waiting: deque[tuple[Piece, asyncio.Task[Answer]]] = deque()
        admitted = False
        try:
            while (piece := await self._next(source)) is not None:
                waiting.append((piece, asyncio.ensure_future(listen(piece.audio, admitted=admitted))))
                if not admitted:  # whoever is let in is heard to the end
                    yield joiner.add(*await _first(waiting))
                    admitted = True
                elif len(waiting) >= _PIECES_ON_THE_WAY:
                    yield joiner.add(*await _first(waiting))
            while waiting:
                yield joiner.add(*await _first(waiting))
            yield joiner.end()
            self._metrics.stage_seconds.observe(source.busy_seconds, {"stage": "decode"})
            self._metrics.audio_seconds.inc(source.seconds, {"model": model_id})
            yield source.seconds
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _next(self, source: _Source) -> Piece | None:
        """None at the end. Decoders take turns, so that an hour of silence holds nobody up."""
        loop = asyncio.get_running_loop()
        try:
            with span("decode"):
                while (found := await loop.run_in_executor(self._decoders, source.turn)) is None:
                    pass
        except UserError as error:
            raise ApiError(400, str(error), "file") from None
        return found if isinstance(found, Piece) else None

    async def _listen(self, audio: Audio, model_id: str, stream: str, admitted: bool, context: Context) -> Answer:
        samples = (audio * 32767).astype(np.int16)
        with span("piece", audio_seconds=len(audio) / SAMPLE_RATE_HZ, model=model_id):
            return await self._recognisers.transcribe(model_id, samples, stream, admitted, context)


class _Source:
    """The pieces of a file, and how long it was when all were read."""

    def __init__(self, file: BinaryIO, config: ServeConfig, cutting: Cutting) -> None:
        self.seconds = 0.0
        self.busy_seconds = 0.0
        """Of work on it."""
        blocks = decoded(file, max_seconds=config.max_audio_seconds)
        self._pieces: Iterator[Piece | None] = pieces_in_turns(self._counted(blocks), cutting)

    def turn(self) -> Piece | object | None:
        """A piece, `_END`, or None where the time of a turn was not enough for either."""
        began, found = time.monotonic(), None
        try:
            while found is None and time.monotonic() < began + _TURN_SECONDS:
                found = next(self._pieces, _END)
        finally:
            self.busy_seconds += time.monotonic() - began
        return found

    def _counted(self, blocks: Iterator[Audio]) -> Iterator[Audio]:
        for block in blocks:
            self.seconds += len(block) / SAMPLE_RATE_HZ
            yield block


async def _first(waiting: deque[tuple[Piece, asyncio.Task[Answer]]]) -> tuple[Piece, Heard]:
    piece, task = waiting[0]
    heard = await task
    waiting.popleft()
    if isinstance(heard, Refusal):
        raise busy(heard.retry_after_seconds)
    if isinstance(heard, ContextRefused):
        message = "the model cannot be told what is likely to be said; leave keywords[] and prompt out"
        raise ApiError(400, message, "keywords[]")
    return piece, heard


async def all_of(parts: AsyncIterator[Heard | float]) -> tuple[Heard, float]:
    """The whole of what `Ear.hear` tells, and the seconds."""
    heard, seconds = list[Heard](), 0.0
    async with aclosing(parts) as told:  # type: ignore[type-var]
        async for part in told:
            if isinstance(part, float):
                seconds = part
            else:
                heard.append(part)
    return whole(heard), seconds
