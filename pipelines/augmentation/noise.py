"""A background at a true signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.augmentation.backgrounds import BACKGROUNDS
from rayapp.audio.levels import active_level, rms
from rayapp.records import Audio, Utterance
from rayapp.stage import Resources, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mix_at_snr(speech: Audio, noise: NDArray[np.float64], snr_db: float) -> Audio:
    """Add `noise` so that active speech stands `snr_db` above it.

    speech: (samples,) float32 at 16 kHz. noise: the same length.
    The level is that of active speech (ITU-T P.56), so that pauses do not make speech look quiet.
    """
    gain = active_level(speech) / (rms(noise) * 10 ** (snr_db / 20))
    return (speech + gain * noise).astype(np.float32)


class AddNoise(Stage):
    """Puts each utterance into a background, at the SNR that its slot drew."""

    name = "noise"
    version = 1
    resources = Resources(cpus=0.5)

    def __call__(self, utterance: Utterance) -> Utterance:
        slot, speech = utterance.slot, utterance.audio
        assert speech is not None
        rng = slot.rng("noise")
        kind = str(rng.choice(sorted(BACKGROUNDS)))
        background = BACKGROUNDS[kind](len(speech), rng)
        return utterance.with_audio(mix_at_snr(speech, background, slot.snr_db)).with_step(
            self.name, self.version, background=kind, snr_db=slot.snr_db
        )
