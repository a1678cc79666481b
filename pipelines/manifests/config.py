"""Settings of the manifests step: how many utterances of which kind a run makes."""

from __future__ import annotations

from pydantic import Field

from rayapp.config import StepConfig


class SizesConfig(StepConfig):
    """Utterances per split. Splits of size 0 are not made."""

    train_per_term: int = Field(default=45, ge=0)
    """Clinical training utterances for a term of weight 1."""
    train_everyday: int = Field(default=0, ge=0)
    """Everyday training utterances."""
    validation: int = Field(default=100, ge=0)
    """Clinical validation utterances."""
    validation_everyday: int = Field(default=0, ge=0)
    """Everyday validation utterances."""
    test: int = Field(default=240, ge=0)
    """Taught terms in sentence patterns that were trained on."""
    test_unseen_patterns: int = Field(default=240, ge=0)
    """Taught terms in sentence patterns that were never trained on."""
    test_unseen_terms: int = Field(default=240, ge=0)
    """Held-out terms."""
    test_other_synthesiser: int = Field(default=240, ge=0)
    """Taught terms, spoken by a synthesiser that was never trained on."""
    test_general: int = Field(default=500, ge=0)
    """Everyday speech: what must not get worse."""


class ManifestsConfig(StepConfig):
    """What a run writes."""

    sizes: SizesConfig = SizesConfig()
    """Utterances per split."""
    max_rejected_share: float = Field(default=0.05, ge=0, le=1)
    """A run fails when more of its utterances are rejected."""
    shard_mb: int = Field(default=512, ge=1)
    """Largest shard."""
