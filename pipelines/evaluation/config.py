"""Settings of the evaluation step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rayapp.config import StepConfig


class EvaluationConfig(StepConfig):
    """Two recognisers on the same speech: before and after."""

    output: Path = Path("runs/evaluation")
    """Folder of the figures and the report."""
    manifest: Path
    """Folder of the manifest."""
    splits: tuple[str, ...] = (
        "test",
        "test_unseen_patterns",
        "test_unseen_terms",
        "test_other_synthesiser",
        "test_general",
    )
    """Splits to score."""
    before: Path
    """The model to compare with: a `.nemo` file, a Whisper folder, or the output of a training."""
    after: Path
    """The model to judge, in the same forms."""
    workers: int = Field(default=2, ge=1)
    """Processes that transcribe."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """0 transcribes on the CPU."""
    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamples behind each 95 % interval."""
    examples: int = Field(default=12, ge=0)
    """Utterances to listen to in the report."""
    seed: int = 0
    """Of the resampling and of the choice of examples."""
