"""Settings of the augmentation step."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rayapp.config import StepConfig


class RoomConfig(StepConfig):
    """Rooms that the speech is played in."""

    probability: float = Field(default=0.7, ge=0, le=1)
    """Share of the utterances that are in a room; the others stay dry, as with a headset."""
    rooms: int = Field(default=40, ge=2)
    """How many rooms there are; half are heard in training, half in the tests."""


class NoiseConfig(StepConfig):
    """How loud the surroundings are, relative to the speaker."""

    min_snr_db: float = 10.0
    """Loudest noise to add."""
    max_snr_db: float = 25.0
    """Faintest noise to add; the SNR is drawn uniformly between the two."""

    @model_validator(mode="after")
    def _snr_range_is_ordered(self) -> Self:
        if self.min_snr_db > self.max_snr_db:
            raise ValueError(
                f"augmentation.noise: min_snr_db ({self.min_snr_db}) is above max_snr_db ({self.max_snr_db}); swap them"
            )
        return self


class MicrophoneConfig(StepConfig):
    """What the microphone and its amplifier do."""

    min_gain_db: float = -12.0
    """Quietest recording, relative to speech at half of full scale."""
    max_gain_db: float = 3.0
    """Loudest recording; what would clip is turned down to fit."""
    min_hiss_db: float = 36.0
    """Loudest Gaussian noise, in dB below the speech: so low that the SNR of the row stays true."""
    max_hiss_db: float = 50.0
    """Faintest Gaussian noise."""


class AugmentationConfig(StepConfig):
    """From clean speech to speech as a ward would record it."""

    room: RoomConfig = RoomConfig()
    """Reverberation."""
    noise: NoiseConfig = NoiseConfig()
    """Background at a drawn SNR."""
    microphone: MicrophoneConfig = MicrophoneConfig()
    """Gain and Gaussian noise."""
    workers: int = Field(default=1, ge=1)
    """Processes that augment."""
