"""The process that owns a device: one model, one thread, and batches of what queues up."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path

import numpy as np

from rayapp.asr.recogniser import Heard
from rayapp.records import SAMPLE_RATE_HZ
from serve.batcher import Batcher, OverloadError
from serve.config import BatchingConfig
from serve.scaling import QUEUED_SECONDS
from serve.transcription import Refusal, Samples

_MOST_FAILURES = 8
"""In a row: one request that cannot be heard has up to two."""


class RecogniserReplica:
    """A copy of the model. It is ready when its first batch has been heard."""

    def __init__(self, path: Path, device: str, batching: BatchingConfig) -> None:
        from rayapp.asr.open import open_recogniser

        recogniser = open_recogniser(path, device)
        recogniser.transcribe([np.zeros(SAMPLE_RATE_HZ, np.float32)], times=True)  # the first is slow: not a client's
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through it again and again costs pauses of half a second
        self._batcher = Batcher(partial(recogniser.transcribe, times=True), batching)

    async def transcribe(self, samples: Samples, stream: str, admitted: bool) -> Heard | Refusal:
        """See `serve.transcription.Recogniser`."""
        try:
            return await self._batcher.transcribe(samples.astype(np.float32) / 32768, stream, admitted=admitted)
        except OverloadError as error:
            return Refusal(error.retry_after_seconds)

    async def is_ready(self) -> bool:
        """Says so as soon as there is one that can."""
        return True

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray asks now and then, see `serve.scaling`."""
        return {QUEUED_SECONDS: self._batcher.pending_seconds}

    def check_health(self) -> None:
        """Ray asks now and then, and starts another replica instead of one that raises."""
        if self._batcher.failures > _MOST_FAILURES:
            raise RuntimeError(f"the last {self._batcher.failures} batches failed")
