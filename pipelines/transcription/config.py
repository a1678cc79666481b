"""Settings of `rayapp transcribe`."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from rayapp.config import Location, StepConfig

Format: TypeAlias = Literal["jsonl", "parquet", "text", "srt", "vtt"]


class TranscriptionConfig(StepConfig):
    """Which recordings become which text."""

    places: tuple[Location, ...] = Field(min_length=1)
    """Files, folders and manifests."""
    output: Location
    """Folder of the transcripts."""
    model: str
    """Path, name in the registry, on Hugging Face's hub or in NGC."""
    format: Format = "jsonl"
    """jsonl and parquet hold many transcripts in a file, with words; the others are a file for each recording."""
    workers: int = Field(default=1, ge=1)
    """That listen at a time, each with a copy of the model."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """0 listens on CPUs."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""
    max_batch_seconds: float = Field(default=400, gt=0)
    """Most seconds of audio in a batch, padding included: what fits into the device's memory."""
