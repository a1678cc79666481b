"""Recordings that were turned up too far: the loudest samples are cut off."""

from __future__ import annotations

import numpy as np

from pipelines.augmentation.chance import happens
from pipelines.augmentation.config import ClippingConfig
from rayapp.records import Audio, Slot, Utterance
from rayapp.stage import Resources, Stage


class Clip(Stage):
    """Cuts off a drawn share of the samples."""

    name = "clipping"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: ClippingConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        audio = utterance.audio
        assert audio is not None
        share = draw_share(utterance.slot, self.config)
        if share is None:
            return utterance
        return utterance.with_audio(clipped(audio, share)).with_step(self.name, self.version, share=share)


def draw_share(slot: Slot, config: ClippingConfig) -> float | None:
    """Share of the samples that are cut off; None where none are."""
    if not happens(slot, Clip.name, config.probability):
        return None
    return round(float(slot.rng("clipping").uniform(config.min_share, config.max_share)), 6)


def clipped(audio: Audio, share: float) -> Audio:
    """The audio with so large a share of its samples, the loudest, all at one level; no louder than before.

    >>> clipped(np.array([0.1, -0.5, 0.9, 0.2], np.float32), share=0.5).tolist()
    [0.10000000149011612, -0.5, 0.5, 0.20000000298023224]
    """
    count = clipped_samples(len(audio), share)
    level = np.partition(np.abs(audio), len(audio) - count)[len(audio) - count]
    return np.clip(audio, -level, level)


def clipped_samples(samples: int, share: float) -> int:
    """How many of so many samples are at the level where they are cut off; one at the least."""
    return max(round(samples * share), 1)
