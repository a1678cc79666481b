"""The process that owns a device: one model, one thread, and batches of what queues up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rayapp.asr.recogniser import Phrases
from rayapp.records import SAMPLE_RATE_HZ
from serve.batcher import Batcher, OverloadError
from serve.config import BatchingConfig
from serve.scaling import PENDING_SECONDS
from serve.transcription import Answer, PhrasesRefused, Refusal, Samples

_MOST_FAILURES = 8
"""In a row: one request that cannot be heard has up to two."""


class RecogniserReplica:
    """A copy of the model. It is ready when its first batch has been heard."""

    def __init__(self, path: Path, device: str, batching: BatchingConfig) -> None:
        from rayapp.asr.open import open_recogniser

        recogniser = open_recogniser(path, device)
        recogniser.transcribe([np.zeros(SAMPLE_RATE_HZ, np.float32)], times=True)  # the first is slow: not a client's
        self._takes_phrases = recogniser.takes_phrases
        self._batcher = Batcher(
            lambda audio, phrases: recogniser.transcribe(audio, times=True, phrases=phrases), batching.on(device)
        )

    async def transcribe(self, samples: Samples, stream: str, admitted: bool, phrases: Phrases) -> Answer:
        """See `serve.transcription.Recogniser`."""
        if phrases and not self._takes_phrases:
            return PhrasesRefused()
        audio = samples.astype(np.float32) / 32768
        try:
            return await self._batcher.transcribe(audio, stream, phrases=phrases, admitted=admitted)
        except OverloadError as error:
            return Refusal(error.retry_after_seconds)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray asks now and then, see `serve.scaling`."""
        return {PENDING_SECONDS: self._batcher.pending_seconds}

    def check_health(self) -> None:
        """Ray asks now and then, and starts another replica instead of one that raises."""
        if self._batcher.failures > _MOST_FAILURES:
            raise RuntimeError(f"the last {self._batcher.failures} batches failed")
