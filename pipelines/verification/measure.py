"""What the audio alone tells: clipping, silence, and how fast somebody speaks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipelines.verification.units import spaced_words
from rayapp.audio.levels import active_level
from rayapp.records import SAMPLE_RATE_HZ, Audio

_FULL_SCALE = 0.999
_SHORTEST_RUN = 3
"""Samples: a peak that just touches full scale is not clipped."""
_FRAME = SAMPLE_RATE_HZ // 50
"""Samples: 20 ms."""
_SILENCE_DB = -35.0
"""Below the active speech level. The weakest consonants are some 30 dB below it."""


class Rates(NamedTuple):
    """How fast somebody speaks."""

    words_per_second: float
    characters_per_second: float


def speaking_rates(spoken: str, duration_seconds: float) -> Rates:
    """Over the whole duration, pauses included. Characters are letters and digits; a CJK character is a word as well.

    >>> speaking_rates("start losartan today", 2.0)
    Rates(words_per_second=1.5, characters_per_second=9.0)
    """
    words = [word for word in spaced_words(spoken) if any(map(str.isalnum, word))]
    characters = sum(character.isalnum() for character in spoken)
    return Rates(len(words) / duration_seconds, characters / duration_seconds)


def clipped_share(audio: Audio) -> float:
    """Share of the samples of (samples,) that lie at full scale, three or more in a row.

    >>> clipped_share(np.array([0.0, 1.0, 0.0, 1.0, 1.0, 1.0, -1.0, 0.0]))
    0.5
    """
    full = np.concatenate([[False], np.abs(audio) >= _FULL_SCALE, [False]])
    edges = np.flatnonzero(np.diff(full))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= _SHORTEST_RUN].sum() / max(len(audio), 1))


def silence_share(audio: Audio) -> float:
    """Share of the 20 ms frames of (samples,) that are 35 dB below the active speech level (ITU-T P.56); 1 for silence.

    Noise of a room fills the pauses: in noisy audio little is silent.

    >>> tone = np.sin(np.arange(16_000) * 0.3)
    >>> silence_share(np.concatenate([tone, np.zeros(16_000)]))
    0.5
    """
    level = active_level(audio)
    frames = audio[: len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not level or not len(frames):
        return 1.0
    levels = np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1))
    return float(np.mean(levels < level * 10 ** (_SILENCE_DB / 20)))
