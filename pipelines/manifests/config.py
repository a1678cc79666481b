"""Settings of the manifests step: how many utterances of which kind a run makes."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

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
    """A run fails when more of its utterances are rejected. Repeats that are set aside do not count: they were good."""
    shard_mb: int = Field(default=512, ge=1)
    """Largest shard."""
    licence: str = "cc-by-4.0"
    """What the dataset card says of the manifest, by Hugging Face's name of the licence; nothing else depends on it."""

    @field_validator("licence")
    @classmethod
    def _licence_is_named_as_the_hub_has_it(cls, licence: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
            raise ValueError(
                f"{licence!r} is not how Hugging Face names a licence; give one such as cc-by-4.0, apache-2.0 or other "
                "(https://huggingface.co/docs/hub/repositories-licenses lists them)"
            )
        return licence
