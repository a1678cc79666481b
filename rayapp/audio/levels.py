"""How loud audio is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rayapp.records import SAMPLE_RATE_HZ, Audio

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN_DB = 15.9
TIME_CONSTANT_SECONDS = 0.03
STEP = 16
"""Samples: the envelope is read every millisecond. It is smooth, and thresholds are tried on it many times."""
HANGOVER_STEPS = int(0.2 * SAMPLE_RATE_HZ / STEP)
THRESHOLDS = 15
"""How many are tried, each half the one before."""


def rms(audio: Audio) -> float:
    """Root mean square of (samples,); 0 for none."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0


def peak(audio: Audio) -> float:
    """Largest magnitude of (samples,); never below 1e-6, so that it can be divided by."""
    return max(float(np.abs(audio).max(initial=0.0)), 1e-6)


def active_level(audio: Audio) -> float:
    """Level of the speech without its pauses, as a root mean square (ITU-T P.56, method B).

    The envelope is smoothed twice (30 ms). A sample is active while the envelope stood above a
    threshold within the last 200 ms. The threshold sought is 15.9 dB below the active level that it
    leads to itself: the method tries thresholds in steps of a factor of two and interpolates.

    audio: (samples,) at 16 kHz. Returns 0 for silence.

    >>> tone = np.sin(np.arange(16_000) * 0.3).astype(np.float32)
    >>> pause = np.zeros(16_000, np.float32)
    >>> level = active_level(np.concatenate([tone, pause, tone]))
    >>> bool(abs(20 * np.log10(level / rms(tone))) < 1)
    True
    """
    from scipy.signal import lfilter

    energy = float(np.sum(np.square(audio, dtype=np.float64)))
    if energy == 0.0:
        return 0.0
    g = np.exp(-1 / (SAMPLE_RATE_HZ * TIME_CONSTANT_SECONDS))
    # Two smoothings by one pole each are one filter with two poles.
    envelope = lfilter([(1 - g) ** 2], [1, -2 * g, g * g], np.abs(audio))[::STEP]
    level_db, threshold_db = np.inf, np.inf
    for step in range(THRESHOLDS):
        threshold = float(envelope.max()) * 2.0**-step
        active = STEP * _active_steps(envelope >= threshold, HANGOVER_STEPS)
        if not active:
            continue
        previous = level_db - threshold_db
        previous_level_db = level_db
        level_db, threshold_db = 10 * np.log10(energy / active), 20 * np.log10(threshold)
        margin = level_db - threshold_db
        if margin >= MARGIN_DB:
            if not np.isfinite(previous) or previous >= margin:
                return float(10 ** (level_db / 20))
            share = (MARGIN_DB - previous) / (margin - previous)
            return float(10 ** ((previous_level_db + share * (level_db - previous_level_db)) / 20))
    return float(10 ** (level_db / 20))


def _active_steps(above: NDArray[np.bool_], hangover: int) -> int:
    """Steps within `hangover` after one that is above, that one included."""
    where = np.flatnonzero(above)
    if not len(where):
        return 0
    gaps = np.diff(where, append=len(above))
    return int(np.minimum(gaps, hangover).sum())
