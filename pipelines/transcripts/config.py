"""Settings of the transcripts step."""

from __future__ import annotations

from pydantic import Field

from rayapp.config import StepConfig


class TranscriptsConfig(StepConfig):
    """What is said around the terms."""

    max_patterns: int | None = Field(default=None, ge=8)
    """Use at most so many sentence patterns of each style, the shortest; without it, all of the grammar's. Lists of
    terms come besides, and are never held out: they are for training alone."""
    max_alternatives: int | None = Field(default=None, ge=2)
    """Use at most so many alternatives of each blank in a pattern: fewer words are learnt sooner. Openings of
    lists keep all of theirs."""
    held_out_patterns: float = Field(default=0.2, ge=0, lt=1)
    """Share of the sentence patterns that is never trained on: they make the test of unseen patterns."""
    max_draws: int = Field(default=300, ge=1)
    """Draw at most so many sentences for a slot until one belongs to its split; then the slot is rejected."""
