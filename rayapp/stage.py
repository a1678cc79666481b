"""What a stage is. Knows nothing of Ray: `rayapp.execution` turns stages into Ray Data operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rayapp.records import Utterance


@dataclass(frozen=True)
class Resources:
    """What one worker needs while it runs."""

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


@runtime_checkable
class BatchStage(Protocol):
    """A stage that is faster on several utterances at once: a model on a GPU, or a server that is asked.

    What it returns for an utterance must not depend on the others of the batch, up to rounding.
    """

    name: str
    version: int
    resources: Resources
    batch_size: int

    def on_batch(self, utterances: Sequence[Utterance]) -> Sequence[Utterance | Exception]:
        """One outcome per utterance, in order; a `RejectedError` in place of one that cannot be made."""
        ...
