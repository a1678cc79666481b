"""Another tempo and, with it, another pitch: speed perturbation as Kaldi has it."""

from __future__ import annotations

import soxr

from pipelines.augmentation.chance import happens
from pipelines.augmentation.config import SpeedConfig
from rayapp.records import SAMPLE_RATE_HZ, Utterance
from rayapp.stage import Resources, Stage


class ChangeSpeed(Stage):
    """Resamples the speech, and takes the result for 16 kHz; the times of phonemes, words and turns follow."""

    name = "speed"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: SpeedConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        audio = utterance.audio
        assert audio is not None
        if not happens(utterance.slot, self.name, self.config.probability):
            return utterance
        drawn = utterance.slot.rng("speed").uniform(self.config.min_factor, self.config.max_factor)
        factor = round(float(drawn), 3)
        faster = soxr.resample(audio, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ)
        return (
            utterance.with_audio(faster).retimed(stretch=1 / factor).with_step(self.name, self.version, factor=factor)
        )
