"""The recording itself: Gaussian noise of the amplifier, and how far the gain was turned."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.augmentation.chance import happens
from pipelines.augmentation.config import MicrophoneConfig
from rayapp.audio.levels import active_level, peak
from rayapp.records import Slot, Utterance
from rayapp.stage import Resources, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

CEILING = 0.99
"""Where a recording is turned down to, if it would clip."""


class Amplifier(NamedTuple):
    """What is drawn for a recording."""

    hiss_db: float
    """How far below the speech the noise is."""
    hiss: NDArray[np.float64]
    """(samples,) of unit power."""
    gain_db: float


class Record(Stage):
    """Adds Gaussian noise and a gain; turns down what would clip."""

    name = "microphone"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: MicrophoneConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        audio = utterance.audio
        assert audio is not None
        amplifier = draw_amplifier(utterance.slot, self.config, len(audio))
        if amplifier is None:
            return utterance
        hiss_db, hiss, gain_db = amplifier
        recorded = audio + hiss * active_level(audio) * 10 ** (-hiss_db / 20)
        gain_db = min(gain_db, 20 * float(np.log10(CEILING / peak(recorded))))
        return utterance.with_audio(recorded * 10 ** (gain_db / 20)).with_step(
            self.name, self.version, **amplifier_params(hiss_db, gain_db)
        )


def draw_amplifier(slot: Slot, config: MicrophoneConfig, samples: int) -> Amplifier | None:
    """The noise and gain of a recording; None for one that is left as it is."""
    if not happens(slot, Record.name, config.probability):
        return None
    rng = slot.rng("microphone")
    return Amplifier(
        hiss_db=float(rng.uniform(config.min_hiss_db, config.max_hiss_db)),
        hiss=rng.standard_normal(samples),
        gain_db=float(rng.uniform(config.min_gain_db, config.max_gain_db)),
    )


def amplifier_params(hiss_db: float, gain_db: float) -> dict[str, float]:
    """What the step records; the gain is the one that was applied, after turning down."""
    return {"hiss_db": round(hiss_db, 2), "gain_db": round(gain_db, 2)}
