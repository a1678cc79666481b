"""Silence and noise in which nobody speaks: whatever a recogniser writes there, it made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rayapp.records import SAMPLE_RATE_HZ, Audio

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP_SECONDS = 15.0
VERSION = 1
"""Raise it when the same clip would sound otherwise."""
_LEVELS_DB = (-60.0, -50.0, -40.0, -30.0)
"""RMS, of full scale: from a quiet room to a loud one."""


def clips(minutes: float) -> int:
    """How many clips make so many minutes.

    >>> clips(10)
    40
    """
    return round(minutes * 60 / CLIP_SECONDS)


def clip(number: int) -> Audio:
    """(samples,) of one clip: kinds and levels take turns, and the first is digital silence."""
    rng = np.random.default_rng([VERSION, number])
    samples = int(CLIP_SECONDS * SAMPLE_RATE_HZ)
    if number % (len(_KINDS) + 1) == 0:
        return np.zeros(samples, np.float32)
    noise = _KINDS[number % (len(_KINDS) + 1) - 1](rng, samples)
    level = 10 ** (_LEVELS_DB[number % len(_LEVELS_DB)] / 20)
    return np.asarray(level * noise / np.sqrt(np.mean(noise**2)), np.float32)


def _hiss(rng: np.random.Generator, samples: int) -> NDArray[np.float64]:
    return rng.standard_normal(samples)


def _ventilation(rng: np.random.Generator, samples: int) -> NDArray[np.float64]:
    """Noise that falls by 6 dB per octave above 100 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    return np.fft.irfft(spectrum / np.maximum(hertz / 100, 1), samples)


def _hum(rng: np.random.Generator, samples: int) -> NDArray[np.float64]:
    """Of the mains: 50 Hz and its overtones, in a little hiss."""
    seconds = np.arange(samples) / SAMPLE_RATE_HZ
    tones = sum(np.sin(2 * np.pi * 50 * k * seconds + rng.uniform(0, 6.28)) / k for k in range(1, 8))
    return np.asarray(tones + 0.05 * rng.standard_normal(samples))


def _knocks(rng: np.random.Generator, samples: int) -> NDArray[np.float64]:
    """Doors, steps, things put down: short dull sounds, some two seconds apart, in a little hiss."""
    noise = 0.02 * rng.standard_normal(samples)
    decay = np.exp(-np.arange(SAMPLE_RATE_HZ // 5) / (0.03 * SAMPLE_RATE_HZ))
    for start in rng.integers(0, samples - len(decay), int(CLIP_SECONDS / 2)):
        noise[start : start + len(decay)] += (
            np.convolve(rng.standard_normal(len(decay)), np.ones(24) / 24, "same") * decay
        )
    return noise


_KINDS = (_hiss, _ventilation, _hum, _knocks)
