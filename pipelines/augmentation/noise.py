"""A background at a true signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.augmentation.babble import Babble, Talk
from pipelines.augmentation.backgrounds import BACKGROUNDS
from pipelines.augmentation.chance import happens
from pipelines.augmentation.config import NoiseConfig
from pipelines.augmentation.recordings import Recordings
from rayapp.audio.levels import active_level, rms
from rayapp.records import Audio, Slot, Utterance
from rayapp.stage import Resources, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mix_at_snr(speech: Audio, noise: NDArray[np.floating[Any]], snr_db: float) -> Audio:
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

    def __init__(self, config: NoiseConfig, talk: Talk | None = None) -> None:
        self.backgrounds = Backgrounds(config, talk)

    def __call__(self, utterance: Utterance) -> Utterance:
        slot, speech = utterance.slot, utterance.audio
        assert speech is not None
        background = self.backgrounds.draw(slot, len(speech))
        if background is None:
            return utterance
        return utterance.with_audio(mix_at_snr(speech, background.noise, slot.snr_db)).with_step(
            self.name, self.version, **background_params(background, slot)
        )


class Background(NamedTuple):
    """What is drawn for an utterance."""

    kind: str
    noise: NDArray[np.floating[Any]]
    """(samples,) at any level but silence."""
    details: Mapping[str, Any]
    """Which recording or clip it is, where it is one."""


class Backgrounds:
    """Synthesised, recorded or spoken, as the settings weigh them.

    talk: whose voices babble is made of; only babble needs it.
    Raises `UserError` for recordings that cannot be opened.
    """

    def __init__(self, config: NoiseConfig, talk: Talk | None = None) -> None:
        self.config = config
        weights = {kind: weight for kind, weight in sorted(config.weights.model_dump().items()) if weight}
        self.kinds = list(weights)
        self.shares = [weight / sum(weights.values()) for weight in weights.values()]
        self.recordings = Recordings.open(config.backgrounds) if config.backgrounds else None
        self.babble = Babble(talk) if talk else None
        assert self.babble or "babble" not in weights, "babble needs voices"

    def draw(self, slot: Slot, samples: int) -> Background | None:
        """A background of that length; None for an utterance that stays without.

        Raises `RejectedError` for a recording that turns out to be unusable.
        """
        if not happens(slot, AddNoise.name, self.config.probability):
            return None
        if self.recordings and happens(slot, "recording", self.config.recordings_share):
            return Background("recording", *self.recordings.draw(slot, samples))
        rng = slot.rng("noise")
        kind = self._kind(rng)
        if kind == "babble":
            assert self.babble is not None
            return Background(kind, *self.babble.draw(slot, samples, rng))
        return Background(kind, BACKGROUNDS[kind](samples, rng), {})

    def _kind(self, rng: np.random.Generator) -> str:
        """Alike weights are drawn without them: that keeps the audio of rows that were made before there were any."""
        shares = self.shares if len(set(self.shares)) > 1 else None
        return str(rng.choice(self.kinds, p=shares))


def background_params(background: Background, slot: Slot) -> dict[str, Any]:
    """What the step records."""
    return {"background": background.kind, "snr_db": slot.snr_db, **background.details}
