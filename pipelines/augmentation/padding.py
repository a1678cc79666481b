"""Silence before and after the speech, as when a button is pressed early and released late."""

from __future__ import annotations

import numpy as np

from pipelines.augmentation.chance import happens
from pipelines.augmentation.config import PaddingConfig
from rayapp.records import SAMPLE_RATE_HZ, Utterance
from rayapp.stage import Resources, Stage


class Pad(Stage):
    """Adds silence of a drawn length at each end; the times of phonemes, words and turns follow."""

    name = "padding"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: PaddingConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        audio = utterance.audio
        assert audio is not None
        if not happens(utterance.slot, self.name, self.config.probability):
            return utterance
        drawn_seconds = utterance.slot.rng("padding").uniform(self.config.min_seconds, self.config.max_seconds, 2)
        before, after = (int(seconds * SAMPLE_RATE_HZ) for seconds in drawn_seconds)
        return (
            utterance.with_audio(np.pad(audio, (before, after)))
            .retimed(delay_seconds=before / SAMPLE_RATE_HZ)
            .with_step(self.name, self.version, samples_before=before, samples_after=after)
        )
