"""The processes that take utterances through groups of stages, and what they tell while they do."""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.records import Utterance
from rayapp.stage import run_stages, stage_class

_logger = logging.getLogger(__name__)
_UTTERANCE = "utterance"
"""The column that travels between groups: utterances, pickled. Only our own workers write it."""
BUSY_SECONDS = "busy_seconds"
"""Column that a library's own operators may add: how long they were busy with each utterance."""
_MOST_DEATHS = 8
"""Of a worker in a row, without finishing anything: it is more than an utterance that kills it needs."""
_MOST_TRIES = 2
"""Of an utterance, taken alone, that the worker died on."""


def pack(utterances: Sequence[Utterance]) -> pa.Table:
    """Utterances as they travel between groups, a row each."""
    return pa.table({_UTTERANCE: pa.array([pickle.dumps(u) for u in utterances], pa.large_binary())})


def unpack(table: pa.Table) -> list[Utterance]:
    """What `pack` packed."""
    return [pickle.loads(row) for row in table[_UTTERANCE].to_pylist()]  # noqa: S301 (our own workers' alone)


class Source(Protocol):
    """Where the first group of a run takes its utterances from."""

    def read(self, bundle: pa.Table) -> Iterator[list[Utterance]]:
        """The utterances to be of each piece of a bundle."""
        ...


class Sink(Protocol):
    """Where the last group of a run leaves what it finished."""

    def commit(self, utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> pa.Table:
        """Write them; the receipt's `errno` is not 0 where the storage took nothing.

        seconds: how long each of the last stages took.
        """
        ...


@dataclass
class StageProgress:
    """How far a stage is."""

    rows: int = 0
    busy_seconds: float = 0.0
    """Summed over its workers."""


class Board:
    """What a run's workers tell one another and the driver; an actor of its own, which no death of theirs reaches."""

    def __init__(self) -> None:
        self._stages: dict[str, StageProgress] = {}
        self._deaths: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()
        self._fault = ""

    def count(self, rows: int, seconds: Mapping[str, float]) -> None:
        """What the stages have done of a group that commits nothing."""
        for name, busy in seconds.items():
            stage = self._stages.setdefault(name, StageProgress())
            stage.rows += rows
            stage.busy_seconds += busy

    def stages(self) -> dict[str, StageProgress]:
        return self._stages

    def died(self, worker: str) -> int:
        """Count a death of a worker; how many it has had since it last finished something."""
        self._deaths[worker] += 1
        return self._deaths[worker]

    def begin(self, what: str) -> int:
        """Note that something is begun; how often it was before, and not finished."""
        self._begun[what] += 1
        return self._begun[what] - 1

    def finish(self, what: str, worker: str) -> None:
        del self._begun[what]
        self._deaths.pop(worker, None)

    def report_fault(self, message: str) -> None:
        """Note why the run cannot go on: what a worker raises reaches the driver as text, with much around it."""
        self._fault = self._fault or message

    def fault(self) -> str:
        return self._fault


class Worker:
    """One copy of a group of stages; the first group reads its slots itself, the last one commits.

    Ray starts it again where it dies, with the task that it had. From then on it notes what it begins, so that an
    utterance that kills its process each time is found, and rejected, instead of tried for ever.
    """

    def __init__(
        self, stages: Sequence[Callable[[], Any]], source: Source | None, sink: Sink | None, board: Any
    ) -> None:
        """stages: make the stages; board: the actor handle of a `Board`.

        Raises `UserError` for settings that a stage refuses, and where the worker dies again and again.
        """
        import ray

        from rayapp.metrics import SynthesisMetrics

        context = ray.get_runtime_context()
        self.name = context.get_actor_id()
        self.restarted = context.was_current_actor_reconstructed
        self.source, self.sink, self.board = source, sink, board
        names = [stage_class(stage).name for stage in stages]
        try:
            self._require_progress(names)
            self.stages = [make() for make in stages]
        except UserError as error:
            ray.get(board.report_fault.remote(str(error)))
            raise
        self.metrics = SynthesisMetrics(names)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for utterances in self.source.read(table) if self.source else [unpack(table)]:
            seconds: dict[str, float] = {}
            done = self._carefully(utterances, seconds) if self.restarted else self._run(utterances, seconds)
            self.metrics.count_work(seconds)
            if self.sink:
                receipt = self.sink.commit(done, seconds)
                yield receipt
                if receipt["errno"][0].as_py():
                    return  # the storage takes nothing: what else there is in the bundle would be lost as well
                self.metrics.count_committed(done)
            else:
                self.board.count.remote(len(done), seconds)
                yield pack(done)

    def _run(self, utterances: Sequence[Utterance], seconds: dict[str, float]) -> list[Utterance]:
        return run_stages(self.stages, utterances, seconds)

    def _carefully(self, utterances: Sequence[Utterance], seconds: dict[str, float]) -> list[Utterance]:
        """As `_run`; one by one where the worker died on them before, so that the one that kills it is found."""
        import ray

        piece = content_id("piece", self.stages[0].name, [u.slot.slot_id for u in utterances])
        if ray.get(self.board.begin.remote(piece)):
            done = [outcome for u in utterances for outcome in self._alone(u, seconds)]
        else:
            done = self._run(utterances, seconds)
        self.board.finish.remote(piece, self.name)
        return done

    def _alone(self, utterance: Utterance, seconds: dict[str, float]) -> list[Utterance]:
        import ray

        if utterance.status == "rejected":
            return [utterance]
        one = content_id("one", self.stages[0].name, utterance.slot.slot_id)
        if ray.get(self.board.begin.remote(one)) >= _MOST_TRIES:
            _logger.error("slot %s kills its worker", utterance.slot.slot_id)
            done = [utterance.rejected("worker: its process died on this utterance again and again")]
        else:
            done = self._run([utterance], seconds)
        self.board.finish.remote(one, self.name)
        return done

    def _require_progress(self, stages: Sequence[str]) -> None:
        import ray

        if self.restarted and ray.get(self.board.died.remote(self.name)) > _MOST_DEATHS:
            raise UserError(
                f"a worker of {', '.join(stages)} died {_MOST_DEATHS} times without finishing anything, perhaps of too "
                "little memory: see the logs of Ray, and give it fewer workers or more memory"
            )
