"""Settings of the speech step."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.speech import voices
from pipelines.speech.coqui.config import CoquiConfig
from rayapp.config import StepConfig


class VoicesConfig(StepConfig):
    """Who speaks in which split. A voice is a speaker with an accent, written `accent+speaker`."""

    train_speakers: tuple[str, ...] = voices.TRAIN_SPEAKERS
    """espeak-ng speaker variants that training hears."""
    validation_speakers: tuple[str, ...] = voices.VALIDATION_SPEAKERS
    """Speakers that choose the best checkpoint; never trained on."""
    test_speakers: tuple[str, ...] = voices.TEST_SPEAKERS
    """Speakers of the tests; never trained on."""
    other_synthesiser_speakers: tuple[str, ...] = voices.KLATT_SPEAKERS
    """Speakers of `test_other_synthesiser`: made by another method than all of the above."""
    train_accents: tuple[str, ...] = voices.TRAIN_ACCENTS
    """Accents that training and validation hear."""
    test_accents: tuple[str, ...] = voices.TRAIN_ACCENTS + voices.TEST_ONLY_ACCENTS
    """Accents of the tests."""
    other_languages: dict[str, tuple[str, ...]] = voices.OTHER_LANGUAGES
    """Accents for what is said in other languages than English."""

    @model_validator(mode="after")
    def _splits_share_no_speaker(self) -> Self:
        heard = set(self.train_speakers)
        for name in ("validation_speakers", "test_speakers", "other_synthesiser_speakers"):
            shared = sorted(heard & set(getattr(self, name)))
            if shared:
                raise ValueError(f"speech.voices.{name} shares {', '.join(shared)} with train_speakers; remove them")
        return self


class TurnsConfig(StepConfig):
    """How a dialogue's voices take turns."""

    max_gap_seconds: float = Field(default=0.8, ge=0)
    """Longest silence between two turns; each is drawn."""
    overlap_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the turns that start before the last one ends."""
    max_overlap_seconds: float = Field(default=0.4, ge=0)
    """Longest overlap; each is drawn."""


class SpeechConfig(StepConfig):
    """How the sentences are spoken."""

    engine: Literal["espeak", "coqui"] = "espeak"
    """Who speaks in training, validation and the tests; `test_other_synthesiser` is always espeak-ng's Klatt voices."""
    voices: VoicesConfig = VoicesConfig()
    """Speakers and accents of each split."""
    accent_weights: dict[str, float] = Field(default={})
    """How often accents speak in training, such as `{en-029: 2}`; those that are not named have 1."""
    min_rate_wpm: int = Field(default=140, ge=80, le=450)
    """Slowest speaker, words per minute."""
    max_rate_wpm: int = Field(default=190, ge=80, le=450)
    """Fastest speaker; each utterance draws its rate between the two."""
    min_pitch: int = Field(default=30, ge=0, le=99)
    """Lowest pitch; 50 is the voice's own."""
    max_pitch: int = Field(default=70, ge=0, le=99)
    """Highest pitch; each utterance draws its pitch between the two."""
    turns: TurnsConfig = TurnsConfig()
    """How a dialogue's voices take turns."""
    coqui: CoquiConfig = CoquiConfig()
    """For `engine: coqui`."""

    def idle_sections(self) -> tuple[str, ...]:
        return () if self.engine == "coqui" else ("coqui",)

    @property
    def trained_accents(self) -> dict[str, tuple[str, ...]]:
        """The accents that training hears, by language; with Coqui's speakers, under one name."""
        if self.engine == "coqui":
            return {"all": tuple(sorted(set(self.coqui.accents.values())))}
        return {"en": self.voices.train_accents, **self.voices.other_languages}

    @model_validator(mode="after")
    def _weights_are_of_accents(self) -> Self:
        accents = sorted({accent for of in self.trained_accents.values() for accent in of})
        if unknown := sorted(set(self.accent_weights) - set(accents)):
            known = ", ".join(accents) or "none: name them in speech.coqui.accents"
            raise ValueError(
                f"speech.accent_weights has {unknown[0]!r}, which training does not hear; accents: {known}"
            )
        if bad := [accent for accent, weight in self.accent_weights.items() if not 0 < weight < math.inf]:
            raise ValueError(f"speech.accent_weights.{bad[0]} is {self.accent_weights[bad[0]]}; it must be above 0")
        return self

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for low, high in (("min_rate_wpm", "max_rate_wpm"), ("min_pitch", "max_pitch")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"speech: {low} ({getattr(self, low)}) is above {high} ({getattr(self, high)}); swap them"
                )
        return self
