"""What a stage is, and how utterances go through stages. Knows nothing of Ray: that is `rayapp.execution`."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rayapp.errors import RejectedError
from rayapp.records import Utterance

_logger = logging.getLogger(__name__)


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


def stage_class(stage: Any) -> Any:
    """The class of a stage, which a chain lists as itself or as a `partial` with its settings."""
    return getattr(stage, "func", stage)


def run_stages(
    stages: Sequence[Stage | BatchStage], utterances: Sequence[Utterance], seconds: dict[str, float] | None = None
) -> list[Utterance]:
    """Take utterances through the stages; a stage that rejects one ends its way, with the reason.

    seconds: how long each stage took is added to it.
    """
    outcomes = list(utterances)
    for stage in stages:
        started = time.perf_counter()
        size = stage.batch_size if isinstance(stage, BatchStage) else 1
        going = [index for index, utterance in enumerate(outcomes) if utterance.status != "rejected"]
        for start in range(0, len(going), size):
            batch = going[start : start + size]
            for index, outcome in zip(batch, _outcomes(stage, [outcomes[i] for i in batch]), strict=True):
                outcomes[index] = outcome
        if seconds is not None:
            seconds[stage.name] = seconds.get(stage.name, 0.0) + time.perf_counter() - started
    return outcomes


def _outcomes(stage: Stage | BatchStage, batch: Sequence[Utterance]) -> list[Utterance]:
    """One outcome for each of a batch, whatever goes wrong: a bad row never kills a batch."""
    outcomes: Sequence[Utterance | Exception]
    try:
        outcomes = stage.on_batch(batch) if isinstance(stage, BatchStage) else [stage(batch[0])]
    except Exception as error:
        if len(batch) > 1:  # find out which one it was
            return [outcome for utterance in batch for outcome in _outcomes(stage, [utterance])]
        outcomes = [error]
    return [_settled(stage, utterance, outcome) for utterance, outcome in zip(batch, outcomes, strict=True)]


def _settled(stage: Stage | BatchStage, utterance: Utterance, outcome: Utterance | Exception) -> Utterance:
    if isinstance(outcome, Utterance):
        return outcome
    if isinstance(outcome, RejectedError):
        return utterance.rejected(f"{stage.name}: {outcome}")
    # Without the error's own words: they may quote what was said.
    where = "".join(traceback.format_tb(outcome.__traceback__))
    _logger.error(
        "stage %s failed on slot %s: %s\n%s", stage.name, utterance.slot.slot_id, type(outcome).__name__, where
    )
    return utterance.rejected(f"{stage.name}: {type(outcome).__name__}")
