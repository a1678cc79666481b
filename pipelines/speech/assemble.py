"""Several voices in one utterance: the turns of a dialogue, or a sentence whose words are in two languages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.speech.config import TurnsConfig
from pipelines.speech.engine import Speech
from pipelines.speech.words import written_words
from rayapp.audio.levels import active_level
from rayapp.records import SAMPLE_RATE_HZ, Audio, Phoneme, Span, SpokenWord, Turn, Voice

SPEECH_LEVEL = 10 ** (-26 / 20)
"""Active speech level that every voice is brought to: 26 dB below full scale, ITU-T P.56's usual working level."""
_CEILING = 0.95
_SILENT = 1e-3
_EDGE_SECONDS = 0.02
"""Silence left at both ends of a stretch."""


class Assembled(NamedTuple):
    audio: Audio
    phonemes: tuple[Phoneme, ...]
    words: tuple[SpokenWord, ...]
    turns: tuple[Turn, ...]


def level(audio: Audio) -> Audio:
    """The audio at `SPEECH_LEVEL`, or as near to it as its peaks allow."""
    gain = SPEECH_LEVEL / max(active_level(audio), 1e-9)
    return (audio * min(gain, _CEILING / max(float(np.abs(audio).max()), 1e-9))).astype(np.float32)


def assemble(
    spans: Sequence[Span],
    voices: Sequence[Voice],
    said: Sequence[Speech],
    config: TurnsConfig,
    rng: np.random.Generator,
) -> Assembled:
    """The stretches one after the other: turns with a drawn gap or some overlap, languages without a pause.

    All three sequences have one entry for each stretch.
    """
    starts: list[int] = []
    pieces: list[Audio] = []
    phonemes: list[Phoneme] = []
    words: list[SpokenWord] = []
    turns: list[Turn] = []
    end = 0
    for index, (span, voice, speech) in enumerate(zip(spans, voices, said, strict=True)):
        first, last = _extent(speech.audio)
        audio = level(speech.audio[first:last])
        start = end + (_gap(spans[index - 1], span, config, rng) if index else 0)
        start = max(start, starts[-1] if starts else 0)  # who answers does not start before the question
        moved = (start - first) / SAMPLE_RATE_HZ
        heard = written_words(span.text, speech.words)
        phonemes += [dataclasses.replace(p, start_seconds=p.start_seconds + moved) for p in speech.phonemes]
        words += [SpokenWord(w.text, w.start_seconds + moved, w.end_seconds + moved) for w in heard]
        end = start + len(audio)
        times = (start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ)
        turns.append(Turn(span.role, span.language, voice.name, span.text, *times))
        starts.append(start)
        pieces.append(audio)
    mixed = np.zeros(max(start + len(piece) for start, piece in zip(starts, pieces, strict=True)), np.float32)
    for start, piece in zip(starts, pieces, strict=True):
        mixed[start : start + len(piece)] += piece
    return Assembled(mixed, tuple(_in_order(phonemes)), tuple(_in_order(words)), tuple(turns))


def _extent(audio: Audio) -> tuple[int, int]:
    """Where the speech of a stretch starts and ends, without the silence that engines put around it."""
    loud = np.flatnonzero(np.abs(audio) > _SILENT)
    edge = int(_EDGE_SECONDS * SAMPLE_RATE_HZ)
    return max(int(loud[0]) - edge, 0), min(int(loud[-1]) + edge, len(audio))


def _gap(before: Span, after: Span, config: TurnsConfig, rng: np.random.Generator) -> int:
    """Samples between two stretches; below 0 they overlap."""
    if before.role == after.role:
        return 0
    overlaps = rng.random() < config.overlap_share
    seconds = -rng.uniform(0, config.max_overlap_seconds) if overlaps else rng.uniform(0, config.max_gap_seconds)
    return int(seconds * SAMPLE_RATE_HZ)


def _in_order(entries: list) -> list:  # type: ignore[type-arg]
    return sorted(entries, key=lambda entry: entry.start_seconds)
