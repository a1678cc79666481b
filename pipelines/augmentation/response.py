"""How evenly a microphone hears the frequencies, where it is worn or stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from pipelines.augmentation.chance import happens
from pipelines.augmentation.config import MicrophoneKind, ResponseConfig
from rayapp.audio.levels import peak
from rayapp.records import SAMPLE_RATE_HZ, Audio, Utterance
from rayapp.stage import Resources, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Band(NamedTuple):
    """One second-order filter of a response."""

    shape: Literal["high_pass", "peak", "high_shelf"]
    hz: float
    gain_db: float = 0.0
    """At the centre of a peak, or above a shelf."""
    q: float = 0.707


RESPONSES: dict[MicrophoneKind, tuple[Band, ...]] = {
    # On the chest: close to its resonance, below the mouth, often under cloth.
    "lapel": (Band("high_pass", 80), Band("peak", 700, 4.0, 1.0), Band("high_shelf", 3500, -6.0)),
    # In a hand: a small port that rumble does not enter, tuned for speech.
    "phone": (Band("high_pass", 200), Band("peak", 3000, 5.0, 1.2), Band("high_shelf", 6500, -8.0)),
    # On a table: its reflection cancels part of the middle, and the distance takes the top.
    "far_desk": (Band("high_pass", 120), Band("peak", 1300, -6.0, 2.0), Band("high_shelf", 3000, -5.0)),
}


class Colour(Stage):
    """Filters the speech as a microphone of a drawn kind would; its peak stays where it was."""

    name = "response"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: ResponseConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        audio = utterance.audio
        assert audio is not None
        if not happens(utterance.slot, self.name, self.config.probability):
            return utterance
        rng = utterance.slot.rng("response")
        kind = self.config.microphones[int(rng.integers(len(self.config.microphones)))]
        shift, depth = round(float(rng.uniform(0.85, 1.2)), 3), round(float(rng.uniform(0.6, 1.4)), 3)
        coloured = coloured_by(audio, kind, shift, depth)
        return utterance.with_audio(coloured * (peak(audio) / peak(coloured))).with_step(
            self.name, self.version, microphone=kind, shift=shift, depth=depth
        )


def coloured_by(audio: Audio, kind: MicrophoneKind, shift: float, depth: float) -> Audio:
    """The audio through a microphone's response.

    shift: factor on the frequencies of its bands. depth: factor on their gains in dB.
    """
    from scipy.signal import sosfilt

    bands = (band._replace(hz=band.hz * shift, gain_db=band.gain_db * depth) for band in RESPONSES[kind])
    return np.asarray(sosfilt(np.array([biquad(band) for band in bands]), audio), np.float32)


def biquad(band: Band) -> NDArray[np.float64]:
    """Coefficients (b0, b1, b2, 1, a1, a2) at 16 kHz: R. Bristow-Johnson, Cookbook formulae for audio EQ biquads.

    >>> at_0_hz = lambda band: sum(biquad(band)[:3]) / sum(biquad(band)[3:])
    >>> bool(abs(at_0_hz(Band("high_pass", 100))) < 1e-9), bool(abs(at_0_hz(Band("high_shelf", 3000, -6)) - 1) < 1e-9)
    (True, True)
    """
    angle = 2 * np.pi * band.hz / SAMPLE_RATE_HZ
    cos, alpha = np.cos(angle), np.sin(angle) / (2 * band.q)
    amplitude = 10 ** (band.gain_db / 40)
    if band.shape == "high_pass":
        b, a = [(1 + cos) / 2, -(1 + cos), (1 + cos) / 2], [1 + alpha, -2 * cos, 1 - alpha]
    elif band.shape == "peak":
        b = [1 + alpha * amplitude, -2 * cos, 1 - alpha * amplitude]
        a = [1 + alpha / amplitude, -2 * cos, 1 - alpha / amplitude]
    else:
        more, less, slope = amplitude + 1, amplitude - 1, 2 * np.sqrt(amplitude) * alpha
        b = [
            amplitude * (more + less * cos + slope),
            -2 * amplitude * (less + more * cos),
            amplitude * (more + less * cos - slope),
        ]
        a = [more - less * cos + slope, 2 * (less - more * cos), more - less * cos - slope]
    return np.array([*b, *a]) / a[0]
