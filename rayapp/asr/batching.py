"""Transcribing many recordings of different lengths: alike lengths together, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayapp.asr.recogniser import Heard, Recogniser
from rayapp.records import SAMPLE_RATE_HZ, Audio


def transcribe_all(
    recogniser: Recogniser, audio: Sequence[Audio], *, times: bool = False, max_batch_seconds: float = 120.0
) -> list[Heard]:
    """One `Heard` per audio, in the order given; each batch holds at most so much audio, padding included.

    times: fill in `Heard.words`.
    """
    heard: list[Heard | None] = [None] * len(audio)
    for batch in alike([len(a) for a in audio], int(max_batch_seconds * SAMPLE_RATE_HZ)):
        for index, result in zip(batch, recogniser.transcribe([audio[i] for i in batch], times=times), strict=True):
            heard[index] = result
    return heard  # type: ignore[return-value]


def alike(lengths: Sequence[int], max_samples: int) -> Iterator[list[int]]:
    """Batches of indices, shortest first, cut where the padded batch would exceed `max_samples`."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[index] * (len(batch) + 1) > max_samples:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
