"""Settings of the lexicon step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rayapp.config import StepConfig


class LexiconConfig(StepConfig):
    """Which terms to teach, and which to keep aside to see whether learning carries over."""

    path: Path | None = None
    """CSV with the columns text, category, language, pronunciation, weight; without it, the packaged sample."""
    take: int | None = Field(default=None, ge=1)
    """Teach this many terms, drawn evenly over the categories; without it, all that are not held out."""
    held_out: int = Field(default=0, ge=0)
    """Never teach this many further terms: they make the test of unseen terms."""
