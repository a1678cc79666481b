"""Several people who talk at once, in the voices that speak the sentences."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipelines.augmentation.loop import looped
from pipelines.augmentation.sides import Side, side_of
from rayapp.audio.levels import active_level
from rayapp.ids import content_id
from rayapp.records import SAMPLE_RATE_HZ, Audio, Slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

Talk: TypeAlias = Callable[[Side, np.random.Generator], Audio]
"""Somebody who says something: a voice that the side may hear, chosen with the generator; (samples,) at 16 kHz.

Must be picklable, and depend on nothing but its arguments.
"""

_CLIP_SECONDS = 12.0
_CLIPS = 16
"""How many there are of each side: each is made once per worker, then kept, as rooms are."""


class Babble:
    """A fixed number of clips of babble."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.clip = lru_cache(maxsize=None)(self._clip)

    def draw(self, slot: Slot, samples: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], dict[str, int]]:
        """A stretch of one clip, and which."""
        number, start = int(rng.integers(_CLIPS)), int(rng.integers(int(_CLIP_SECONDS * SAMPLE_RATE_HZ)))
        return looped(np.roll(self.clip(side_of(slot), number), -start), samples), {"clip": number, "start": start}

    def _clip(self, side: Side, number: int) -> NDArray[np.float32]:
        """Four to seven people, some nearer than others."""
        rng = np.random.default_rng(int(content_id("babble", side, number), 16))
        clip = np.zeros(int(_CLIP_SECONDS * SAMPLE_RATE_HZ), np.float32)
        for _ in range(int(rng.integers(4, 8))):
            person = self._person(side, len(clip), rng)
            clip += person * np.float32(10 ** (rng.uniform(-6, 3) / 20) / max(active_level(person), 1e-6))
        return clip

    def _person(self, side: Side, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """One person's sentences, with pauses between; the first may have begun before."""
        parts: list[Audio] = []
        skipped = int(rng.uniform(0, 1.0) * SAMPLE_RATE_HZ)
        while sum(map(len, parts)) < skipped + samples:
            parts += [self.talk(side, rng), np.zeros(int(rng.uniform(0.1, 0.6) * SAMPLE_RATE_HZ), np.float32)]
        return np.concatenate(parts)[skipped : skipped + samples].astype(np.float32)
