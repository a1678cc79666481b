"""Settings of the lexicon step."""

from __future__ import annotations

from pathlib import Path

from rayapp.config import StepConfig


class LexiconConfig(StepConfig):
    """Which terms to teach, and which to keep aside to see whether learning carries over."""

    path: Path | None = None
    """CSV with the columns text, category, language, pronunciation, weight; without it, the packaged sample."""
    take: int | None = None
    """Teach this many terms, drawn evenly over the categories; without it, all that are not held out."""
    held_out: int = 0
    """Never teach this many further terms: they make the test of unseen terms."""
