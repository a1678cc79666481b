"""Settings of the verification step."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rayapp.config import StepConfig


class SignalConfig(StepConfig):
    """What the audio must be like, whatever is said."""

    min_duration_seconds: float = Field(default=0.3, ge=0)
    """Reject what is shorter."""
    max_duration_seconds: float = Field(default=90.0, gt=0)
    """Reject what is longer."""
    min_words_per_second: float = Field(default=0.5, ge=0)
    """Reject slower speech: a voice that hangs, or noise after the last word. A Chinese character counts as a word."""
    max_words_per_second: float = Field(default=7.0, gt=0)
    """Reject faster speech: words are missing."""
    min_characters_per_second: float = Field(default=2.0, ge=0)
    """Reject slower speech, by the letters and digits of the spoken form."""
    max_characters_per_second: float = Field(default=28.0, gt=0)
    """Reject faster speech."""
    max_clipped_share: float = Field(default=0.001, ge=0, le=1)
    """Reject when more of the samples are clipped: at full scale, three or more in a row."""
    max_silence_share: float = Field(default=0.6, ge=0, le=1)
    """Reject when more of the time is 35 dB or more below the speech."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for figure in ("duration_seconds", "words_per_second", "characters_per_second"):
            low, high = getattr(self, f"min_{figure}"), getattr(self, f"max_{figure}")
            if low > high:
                raise ValueError(f"verification.signal: min_{figure} ({low}) is above max_{figure} ({high}); swap them")
        return self


class VerificationConfig(StepConfig):
    """Which utterances to set aside, with the reason."""

    enabled: bool = False
    """Whether utterances are verified at all."""
    recogniser: str | None = None
    """Who hears every utterance: path of a `.nemo` file, `NAME@ALIAS` of the registry, or a name of Hugging Face's hub;
    without it, only the signal and the phonemes are checked."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of each worker that hears; 0 hears on CPUs, 0.25 lets four workers share one."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""
    workers: int = Field(default=1, ge=1)
    """Processes that hear on GPUs; on CPUs the run's own workers hear, each with the recogniser in its memory."""
    batch_size: int = Field(default=32, ge=1)
    """Utterances that the recogniser is given at a time."""
    max_rest_wer: float = Field(default=0.3, ge=0)
    """Reject when the word error rate of the words around the terms is above this. Wrong terms are kept: they are what
    is to be learnt."""
    max_phone_distance: float = Field(default=0.25, ge=0)
    """Reject when a term's phonemes are further than this from its pronunciation, in edits per phoneme."""
    signal: SignalConfig = SignalConfig()
    """What the audio must be like."""
