"""Settings of the release step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rayapp.config import StepConfig


class GateConfig(StepConfig):
    """What a model must show before it is served. Each rule reads the cautious end of a 95 % interval.

    A rule that is null does not count.
    """

    min_term_recall: float | None = Field(default=None, ge=0, le=1)
    """Share of the terms that must be heard."""
    min_term_recall_gain: float | None = 0.0
    """It must rise by more than this, from the model before."""
    max_unseen_term_recall_drop: float | None = Field(default=None, ge=0, le=1)
    """By so much it may fall for terms that were never taught."""
    max_general_wer_rise: float | None = 0.02
    """By so much the word error rate of everyday speech may rise."""
    max_false_terms_per_hour: float | None = Field(default=None, ge=0)
    """Terms written in everyday speech in which none is said."""
    max_characters_per_minute: float | None = Field(default=None, ge=0)
    """Characters written in silence and noise."""
    max_calibration_error: float | None = Field(default=None, ge=0, le=1)
    """How far the confidence of words may be from the share of them that is right."""
    min_rtfx: float | None = Field(default=None, gt=0)
    """Seconds of audio heard in each second of computing."""
    min_utterances: int = Field(default=30, ge=1)
    """A set with fewer decides nothing: an interval over a handful of utterances may have no width."""
    term_set: str = "test"
    """Set that shows the terms."""
    unseen_set: str = "test_unseen_terms"
    """Set with terms that were never taught."""
    general_set: str = "test_general"
    """Set of everyday speech."""


class ReleaseConfig(StepConfig):
    """From an evaluated model to the one that is served."""

    evaluation: Path
    """Folder of the evaluation."""
    model_name: str = Field(default="medical-asr", pattern=r"^[\w-]+$")
    """Name in the registry."""
    gate: GateConfig = GateConfig()
    """The rules."""
