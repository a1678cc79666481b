"""Hospital-like backgrounds, synthesised, so that no recording has to be downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import irfft, next_fast_len, rfftfreq

from rayapp.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Synthesiser = Callable[[int, np.random.Generator], NDArray[np.float64]]


def ventilation(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Air ducts: noise that falls off with frequency, and the hum of a fan."""
    hum_hz = rng.choice([50.0, 60.0]) * rng.integers(1, 4)
    time = np.arange(samples) / SAMPLE_RATE_HZ
    hum = np.sin(2 * np.pi * hum_hz * time + rng.uniform(0, 6.28))
    return coloured_noise(samples, rng.uniform(0.8, 1.8), rng) + rng.uniform(0, 0.5) * hum


def monitor(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A patient monitor: short beeps at the heart's pace over the noise of the room."""
    beep_hz, period_seconds = rng.uniform(500, 1200), 60 / rng.uniform(55, 110)
    time = np.arange(samples) / SAMPLE_RATE_HZ + rng.uniform(0, period_seconds)
    beeping = (time % period_seconds) < 0.09
    return coloured_noise(samples, 1.0, rng) + rng.uniform(0.5, 1.5) * beeping * np.sin(2 * np.pi * beep_hz * time)


def murmur(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """People in the corridor: several streams of speech-shaped noise that come and go at syllable pace."""
    total = np.zeros(samples)
    for _ in range(int(rng.integers(2, 5))):
        voice = band_noise(samples, rng.uniform(120, 300), rng.uniform(2500, 3800), rng)
        total += voice * _syllables(samples, rng.uniform(4, 7), rng)
    return total


def alarm(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """An alarm of medium or high priority over the noise of the room; pulses are timed as IEC 60601-1-8 has it.

    Medium: three pulses. High: three and two, and once more after a pause. A pulse has four harmonics and more.
    """
    urgent = bool(rng.random() < 0.5)
    pulse_seconds = rng.uniform(0.1, 0.2) if urgent else rng.uniform(0.125, 0.25)
    gap_seconds = rng.uniform(0.05, 0.125) if urgent else rng.uniform(0.125, 0.25)
    step_seconds = pulse_seconds + gap_seconds
    three = np.arange(3) * step_seconds
    five = np.concatenate([three, three[:2] + 4 * step_seconds])  # a pulse is left out between three and two
    pulses = np.concatenate([five, five + 6 * step_seconds + rng.uniform(0.35, 1.3)]) if urgent else three
    period_seconds = pulses[-1] + pulse_seconds + rng.uniform(2.5, 8.0)
    time = (np.arange(samples) / SAMPLE_RATE_HZ + rng.uniform(0, pulses[-1])) % period_seconds
    since = time - pulses[np.maximum(np.searchsorted(pulses, time, side="right") - 1, 0)]
    edge_seconds = 0.15 * pulse_seconds
    loudness = np.clip(np.minimum(since, pulse_seconds - since) / edge_seconds, 0, 1)
    pitch_hz = rng.uniform(250, 900)
    tone = sum(np.sin(2 * np.pi * pitch_hz * n * time) / n for n in range(1, 1 + max(int(4000 / pitch_hz), 4)))
    return coloured_noise(samples, 1.0, rng) + rng.uniform(1.0, 2.5) * loudness * tone


def footsteps(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Somebody who walks past: heels that come nearer and go away, over the noise of the room."""
    step_seconds = 1 / rng.uniform(1.6, 2.2)
    seconds = samples / SAMPLE_RATE_HZ
    nearest_seconds, passing_seconds = rng.uniform(0, seconds), rng.uniform(2, 5)
    steps = np.zeros(samples)
    start_seconds = rng.uniform(0, min(step_seconds, seconds))
    while start_seconds < seconds:
        start = int(start_seconds * SAMPLE_RATE_HZ)
        heel = _heel(rng)[: samples - start]
        loudness = rng.uniform(0.7, 1.0) * np.exp(-(((start_seconds - nearest_seconds) / passing_seconds) ** 2))
        steps[start : start + len(heel)] += loudness * heel
        start_seconds += step_seconds * rng.uniform(0.95, 1.05)
    return coloured_noise(samples, 1.0, rng) + rng.uniform(4, 12) * steps


def _heel(rng: np.random.Generator) -> NDArray[np.float64]:
    """A heel on a hard floor: the floor's thump and the click of the shoe, 0.15 s."""
    time = np.arange(int(0.15 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    thump = np.sin(2 * np.pi * rng.uniform(80, 200) * time) * np.exp(-time / 0.03)
    return thump + rng.uniform(0.3, 1.0) * rng.standard_normal(len(time)) * np.exp(-time / 0.006)


def _syllables(samples: int, per_second: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """An envelope that rises and falls at random, so many times a second."""
    peaks = np.abs(rng.standard_normal(int(samples / SAMPLE_RATE_HZ * per_second) + 2))
    return np.interp(np.arange(samples) * per_second / SAMPLE_RATE_HZ, np.arange(len(peaks)), peaks)


BACKGROUNDS: dict[str, Synthesiser] = {
    "ventilation": ventilation,
    "monitor": monitor,
    "murmur": murmur,
    "alarm": alarm,
    "footsteps": footsteps,
}


def coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise whose power falls as frequency to the power of -exponent (0 is white, 1 is pink)."""
    frequencies = rfftfreq(next_fast_len(samples, real=True), 1 / SAMPLE_RATE_HZ)
    return _shaped_noise(samples, np.maximum(frequencies, 30.0) ** (-exponent / 2), rng)


def band_noise(samples: int, low_hz: float, high_hz: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """White noise within a band."""
    frequencies = rfftfreq(next_fast_len(samples, real=True), 1 / SAMPLE_RATE_HZ)
    return _shaped_noise(samples, ((frequencies >= low_hz) & (frequencies <= high_hz)).astype(float), rng)


def _shaped_noise(samples: int, shape: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of unit power with the given magnitudes; made a little longer, where the transform is fast."""
    where = np.flatnonzero(shape)
    spectrum = np.zeros(len(shape), complex)
    spectrum[where] = (rng.standard_normal(len(where)) + 1j * rng.standard_normal(len(where))) * shape[where]
    noise = irfft(spectrum, next_fast_len(samples, real=True))[:samples]
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)
