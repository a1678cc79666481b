"""A call: what the telephone network lets through."""

from __future__ import annotations

import numpy as np
import soxr

from pipelines.augmentation.chance import happens
from pipelines.augmentation.codec import companded
from pipelines.augmentation.config import CompandingLaw, TelephoneConfig
from rayapp.records import SAMPLE_RATE_HZ, Audio, Utterance
from rayapp.stage import Resources, Stage

_RATE_HZ = 8_000
_BAND_HZ = (300, 3400)


class Telephone(Stage):
    """Puts the speech through the telephone network of a drawn companding law."""

    name = "telephone"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: TelephoneConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        audio = utterance.audio
        assert audio is not None
        if not happens(utterance.slot, self.name, self.config.probability):
            return utterance
        law = self.config.laws[int(utterance.slot.rng("telephone").integers(len(self.config.laws)))]
        return utterance.with_audio(called(audio, law)).with_step(self.name, self.version, law=law)


def called(audio: Audio, law: CompandingLaw) -> Audio:
    """(samples,) at 16 kHz after 300–3400 Hz, 8 kHz and G.711; as many samples, none of them late."""
    from scipy.signal import butter, sosfiltfilt

    band = butter(4, _BAND_HZ, "bandpass", fs=_RATE_HZ, output="sos")  # there and back: no delay, 6 dB at the edges
    narrow = soxr.resample(audio, SAMPLE_RATE_HZ, _RATE_HZ)
    narrow = sosfiltfilt(band, narrow, padtype=None).astype(np.float32)
    wide = soxr.resample(companded(narrow, law, _RATE_HZ), _RATE_HZ, SAMPLE_RATE_HZ)[: len(audio)]
    return np.pad(wide, (0, len(audio) - len(wide)))
