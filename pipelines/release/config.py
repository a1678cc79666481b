"""Settings of the release step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rayapp.config import StepConfig


class GateConfig(StepConfig):
    """What a model must show before it is served. Every rule reads the paired 95 % interval."""

    min_term_recall_gain: float = 0.0
    """Term recall on the taught terms must rise by more than this: the lower bound counts."""
    max_general_wer_rise: float = 0.02
    """Word error rate on everyday speech may rise by at most this: the upper bound counts."""
    term_split: str = "test"
    """Split that shows the terms."""
    general_split: str = "test_general"
    """Split that shows what must not get worse."""


class ReleaseConfig(StepConfig):
    """From an evaluated model to the one that is served."""

    evaluation: Path
    """Folder of the evaluation."""
    model_name: str = Field(default="medical-asr", pattern=r"^[\w-]+$")
    """Name in the registry."""
    gate: GateConfig = GateConfig()
    """The rules."""
