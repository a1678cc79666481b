"""Settings of the Coqui speech engine."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from rayapp.config import StepConfig

OWN_RATE_WPM = 170
"""The rate at which a model speaks at its own pace; it speaks a voice of 340 twice as fast."""


class CoquiConfig(StepConfig):
    """Which Coqui model speaks, and in whose voices."""

    model: str = "tts_models/en/vctk/vits"
    """A name of Coqui's catalogue, or a folder that holds a model and its config.json, or the model file in it."""
    vocoder: str | None = None
    """Name or path of what turns spectrograms into sound; without it, what the catalogue pairs with the model."""
    models_file: Path | None = None
    """A catalogue of your own, in the format of Coqui's `.models.json`, such as one that names a mirror."""
    reference_clips: Path | None = None
    """Folder of recordings of voices to clone, for models that can: one file a speaker, named as the speaker."""
    train_speakers: tuple[str, ...] = ()
    """Speakers that training hears; without any of the three lists, speakers are dealt 70/10/20 by hash of the name."""
    validation_speakers: tuple[str, ...] = ()
    """Speakers that choose the best checkpoint; never trained on."""
    test_speakers: tuple[str, ...] = ()
    """Speakers of the tests; never trained on."""
    accents: dict[str, str] = Field(default={})
    """What accent a speaker has, for the figures by accent; the others have that of their language."""
    split_characters: int = Field(default=200, ge=20)
    """Longer texts are spoken in parts, with a short pause between: models ramble or stop on long ones."""
    batch_size: int = Field(default=16, ge=1)
    """Texts spoken at once by models that can (VITS); with 1, speech is the same bit for bit on the same processor."""
    workers: int = Field(default=1, ge=1)
    """Processes that speak, each with a model of its own."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of each process, or the share of one; 0 speaks on the CPU."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""

    @model_validator(mode="after")
    def _splits_share_no_speaker(self) -> Self:
        for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
            shared = sorted(set(getattr(self, f"{first}_speakers")) & set(getattr(self, f"{second}_speakers")))
            if shared:
                raise ValueError(
                    f"speech.coqui.{second}_speakers shares {', '.join(shared)} with {first}_speakers; remove them"
                )
        return self
