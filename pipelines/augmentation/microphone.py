"""The recording itself: Gaussian noise of the amplifier, and how far the gain was turned."""

from __future__ import annotations

import numpy as np

from pipelines.augmentation.config import MicrophoneConfig
from rayapp.audio.levels import active_level
from rayapp.records import Utterance
from rayapp.stage import Resources, Stage

_CEILING = 0.99


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
        rng = utterance.slot.rng("microphone")
        hiss_db = float(rng.uniform(self.config.min_hiss_db, self.config.max_hiss_db))
        hiss = rng.standard_normal(len(audio)) * active_level(audio) * 10 ** (-hiss_db / 20)
        recorded = audio + hiss
        gain_db = float(rng.uniform(self.config.min_gain_db, self.config.max_gain_db))
        gain_db = min(gain_db, 20 * float(np.log10(_CEILING / max(float(np.abs(recorded).max()), 1e-6))))
        return utterance.with_audio(recorded * 10 ** (gain_db / 20)).with_step(
            self.name, self.version, hiss_db=round(hiss_db, 2), gain_db=round(gain_db, 2)
        )
