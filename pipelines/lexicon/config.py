"""Settings of the lexicon step."""

from __future__ import annotations

from pydantic import Field

from rayapp.config import Location, StepConfig


class LexiconConfig(StepConfig):
    """Which terms to teach, and which to keep aside to see whether learning carries over."""

    path: Location | None = None
    """CSV, TSV, JSONL or parquet with the columns text, category, language, pronunciation, weight, recall,
    confused_with (terms with `;` between them), or text with a term a line; on disk or `s3://…`. Without it, the
    packaged sample."""
    take: int | None = Field(default=None, ge=1)
    """Teach this many terms, drawn evenly over the categories; without it, all that are not held out."""
    held_out: int = Field(default=0, ge=0)
    """Never teach this many further terms: they make the test of unseen terms."""
