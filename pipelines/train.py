"""Training, with each utterance changed anew by transforms of the synthesis whenever it is heard, if a run asks for it.

A manifest's noise is as it was made, once; a room and a background that are drawn again in each epoch leave less to
learn by heart. Batches are planned by the manifest's lengths, so nothing here makes an utterance longer or shorter.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipelines.augmentation.chain import chain, check
from pipelines.augmentation.config import AugmentationConfig
from pipelines.config import TrainConfig
from pipelines.training.train import Progress
from pipelines.training.train import train as train_on
from rayapp.records import Audio, Slot, Utterance, Voice
from rayapp.stage import Stage

_NOBODY = Voice("", "", accent="")


def train(config: TrainConfig, home: Path, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """See `pipelines.training.train.train`. Raises `UserError` for background recordings that cannot be used, too."""
    return train_on(config, home, progress, Augmenter(config.augmentation) if config.augmentation else None)


class Augmenter:
    """Changes an utterance's sound as a chain of transforms says, and not its length."""

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        self.identity = check(config)
        """Of the recordings that are heard in the background."""

    def __call__(self, audio: Audio, rng: np.random.Generator) -> Audio:
        """audio: (samples,) float32, mono, 16 kHz."""
        noise = self.config.noise
        slot = Slot(
            slot_id="",
            split="train",
            style="",
            prompt="",
            term=None,
            cast=(_NOBODY,),
            snr_db=rng.uniform(noise.min_snr_db, noise.max_snr_db),
            seed=int(rng.integers(2**31)),
        )
        utterance = Utterance(slot, audio=audio)
        for stage in self._stages:
            utterance = stage(utterance)
        assert utterance.audio is not None
        return utterance.audio

    @cached_property
    def _stages(self) -> list[Stage]:
        """Made by the process that uses them."""
        return [cast(Stage, maker()) for maker in chain(self.config)]  # type: ignore[operator]
