"""What a stage is. Knows nothing of Ray: `rayapp.execution` turns stages into Ray Data operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rayapp.records import Utterance


@dataclass(frozen=True)
class Resources:
    """What one copy of a stage needs while it runs."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.5


class Stage(Protocol):
    """One step that an utterance goes through.

    A stage is made once per worker, with its settings, and then called on one utterance at a time.
    It returns a new utterance, or raises `rayapp.errors.RejectedError` with the reason.
    """

    name: str
    version: int
    """Part of every utterance_id: raise it when the same slot would sound or read differently."""
    resources: Resources

    def __call__(self, utterance: Utterance) -> Utterance: ...
