"""Settings of the evaluation step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from rayapp.config import Location, StepConfig


class TestSetConfig(StepConfig):
    """Speech to be judged on: a split of a manifest."""

    __test__ = False  # it is no test of pytest's

    manifest: Location
    """Folder of the manifest."""
    split: str = "test"
    """Split to score."""
    general: bool = False
    """Everyday speech, which must not get worse, and not the domain's."""


class EvaluationConfig(StepConfig):
    """A recogniser on any speech, and another to compare it with."""

    output: Path = Path("runs/evaluation")
    """Folder of the figures and the report."""
    sets: dict[str, TestSetConfig]
    """What to score, each under a name of its own."""
    after: Location
    """The recogniser to judge: a path, a name in the registry such as `medical-asr@champion`, or one of a hub."""
    before: Location | None = None
    """The one to compare it with; without it, the figures stand alone."""
    heard: Location = "runs/heard"
    """Folder that keeps what each recogniser heard, so that nothing is heard twice."""
    silence_minutes: float = Field(default=10.0, ge=0)
    """Of silence and noise, in which nothing should be heard; 0 leaves that out."""
    workers: int = Field(default=2, ge=1)
    """Processes that transcribe."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """0 transcribes on the CPU."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""
    bootstrap_samples: int = Field(default=2000, ge=100)
    """Draws behind each 95 % interval."""
    examples: int = Field(default=40, ge=0)
    """Utterances to listen to in the report: some drawn from each set, and the worst."""
    seed: int = 0
    """Of the draws and of the choice of examples."""

    @field_validator("sets")
    @classmethod
    def _some_sets(cls, sets: dict[str, TestSetConfig]) -> dict[str, TestSetConfig]:
        if not sets:
            raise ValueError("name at least one set, such as sets.test.manifest")
        if SILENCE in sets:
            raise ValueError(f"{SILENCE!r} is the name of the built-in set; call it otherwise")
        return sets


SILENCE = "silence"
"""Name of the built-in set."""
