"""Which requests make the next batch: decided at the moment the device becomes free, not before.

A batch that is formed while the device is busy is a batch of whatever came first. One that is formed when it is free
is as large as the queue allows, and of alike lengths.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

from rayapp.asr.context import NOTHING_KNOWN, Context
from rayapp.asr.recogniser import Heard
from rayapp.records import SAMPLE_RATE_HZ, Audio
from serve.config import BatchingConfig
from serve.metrics import RecogniserMetrics
from serve.tracing import note_span


class OverloadError(Exception):
    """There is too much in the queue."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds


Listener: TypeAlias = "Callable[[Sequence[Audio], Sequence[Context]], list[Heard]]"
"""A model: one `Heard` per audio, each of which comes with its context."""
_T = TypeVar("_T")
_FIRST_BATCH_SECONDS = 60.0
"""Of audio, as long as nobody knows how fast the device is."""


@dataclass(eq=False)
class _Waiting:
    listener: Listener
    audio: Audio
    context: Context
    seconds: float
    due: float
    """Its turn, in seconds of audio: of a stream that got less it comes sooner (self-clocked fair queueing)."""
    since: float
    heard: asyncio.Future[Heard] = field(repr=False)
    taken: float = 0.0
    """When its batch began."""


class Batcher:
    """A queue in front of a device that one thread owns.

    Each stream, that is each request, gets its share: an hour of audio in a hundred pieces does not keep a short clip
    waiting. A batch is of one model. What was cancelled is never run.
    """

    def __init__(self, config: BatchingConfig, metrics: RecogniserMetrics) -> None:
        self._config, self._metrics = config, metrics
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._waiting: list[_Waiting] = []
        self._due: dict[str, float] = {}
        self._served = 0.0
        self._running_seconds = 0.0
        self._rate = 0.0
        """Seconds of audio in a second, of late."""
        self.failures = 0
        """Runs that failed since the last one that did not."""
        self._work = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    @property
    def queued_seconds(self) -> float:
        """Of audio that waits."""
        return sum(item.seconds for item in self._waiting)

    @property
    def pending_seconds(self) -> float:
        """Of audio that waits or is listened to."""
        return self.queued_seconds + self._running_seconds

    async def transcribe(
        self, listener: Listener, audio: Audio, stream: str, *, context: Context = NOTHING_KNOWN, admitted: bool = False
    ) -> Heard:
        """What is heard in (samples,) float32 at 16 kHz.

        listener: the model, which is called from the device's thread alone.
        context: what is known of it.
        admitted: more of a stream that was let in already is never turned away.

        Raises `OverloadError` where more is queued than the settings allow.
        """
        seconds, queued = len(audio) / SAMPLE_RATE_HZ, self.queued_seconds
        if not admitted and queued and queued + seconds > self._config.max_queued_seconds:
            raise OverloadError(queued / self._rate if self._rate else 1.0)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._serve())
        due = self._due[stream] = max(self._served, self._due.get(stream, 0.0)) + seconds
        future = asyncio.get_running_loop().create_future()
        item = _Waiting(listener, audio, context, seconds, due, time.monotonic(), future)
        self._waiting.append(item)
        self._work.set()
        try:
            heard = await item.heard
        finally:
            if item in self._waiting:  # whoever asked has gone
                self._waiting.remove(item)
        self._note(item)
        return heard

    def _note(self, item: _Waiting) -> None:
        """For metrics and traces."""
        now = time.monotonic()
        for stage, start, end in (("queue", item.since, item.taken), ("listen", item.taken, now)):
            self._metrics.stage_seconds.observe(end - start, {"stage": stage})
            note_span(stage, now - start, now - end)

    async def _serve(self) -> None:
        while True:
            await self._work.wait()
            if not (batch := self._next()):
                self._work.clear()
                continue
            began = time.monotonic()
            seconds = self._running_seconds = sum(item.seconds for item in batch)
            await self._heard(batch)
            self._running_seconds = 0.0
            rate = seconds / max(time.monotonic() - began, 1e-6)
            self._rate = rate if not self._rate else 0.8 * self._rate + 0.2 * rate

    async def _heard(self, batch: Sequence[_Waiting]) -> None:
        batch = [item for item in batch if not item.heard.done()]  # some may have gone since
        try:
            results = list(zip(batch, await self.on_device(partial(_listen, batch)), strict=True)) if batch else []
        except Exception as error:
            self.failures += 1
            if len(batch) > 1:  # the fault may be one's: the others are not to suffer for it
                for item in batch:
                    await self._heard([item])
            elif not batch[0].heard.done():
                batch[0].heard.set_exception(error)
            return
        self.failures = 0
        for item, result in results:
            if not item.heard.done():
                item.heard.set_result(result)

    async def on_device(self, work: Callable[[], _T]) -> _T:
        """The result of work that the device's thread does between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._device, work)

    def _next(self) -> list[_Waiting]:
        """Whoever is due first, or has waited too long, and others for that model with audio of about that length."""
        if not self._waiting:
            self._due.clear()
            return []
        first = min(self._waiting, key=lambda item: item.since)
        if time.monotonic() - first.since < self._config.max_wait_seconds:
            first = min(self._waiting, key=lambda item: item.due)
        batch, longest, total = [first], first.seconds, first.seconds
        most = self._rate * self._config.target_batch_time_seconds or _FIRST_BATCH_SECONDS
        for item in sorted(self._waiting, key=lambda item: (abs(item.seconds - first.seconds), item.due)):
            padded = max(longest, item.seconds) * (len(batch) + 1)
            if item is first or item.listener is not first.listener:
                continue
            if padded > self._config.max_batch_seconds or total + item.seconds > most:
                continue
            if total + item.seconds < (1 - (self._config.max_padding_share or 0.0)) * padded:
                continue
            batch.append(item)
            longest, total = max(longest, item.seconds), total + item.seconds
        self._waiting = [item for item in self._waiting if item not in batch]
        for item in batch:
            item.taken = time.monotonic()
        self._served = max(self._served, first.due)
        self._due = {stream: due for stream, due in self._due.items() if due > self._served}
        return batch


def _listen(batch: Sequence[_Waiting]) -> list[Heard]:
    return batch[0].listener([item.audio for item in batch], [item.context for item in batch])
