"""The rounds of a run: a plan, what was made of it, and a further plan for what came to nothing.

Everything that a round decides depends on its plan and on what was committed, so a run that was killed takes the
same decisions again.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.transcripts.config import ChecksConfig
from pipelines.transcripts.duplicates import find_repeats
from rayapp.errors import UserError
from rayapp.execution import AnyGroup, Summary, ToTable, run_plan
from rayapp.plan import count_pieces, count_slots, read_piece, write_plan
from rayapp.records import Slot
from rayapp.shards import read_shards
from rayapp.storage import join, list_files, open_filesystem, remove_location, write_file
from rayapp.workers import StageProgress

Progress = Callable[[int, int, str], None]
"""Called with how many are done, of how many, and how far each stage is."""


BLOCKS = "blocks"
"""Folder of the shards that workers commit; not published."""


@dataclass
class Result:
    """What a run came to, over all its rounds."""

    slots: int = 0
    rounds: int = 0
    resumed: int = 0
    """Slots that an earlier, interrupted run had filled."""
    rejections: Counter[str] = field(default_factory=Counter)
    short: Counter[str] = field(default_factory=Counter)
    """Of each term, the slots that no round filled; of everyday speech, under ``""``."""
    audio_seconds: float = 0.0
    """Of what was kept."""
    bytes: int = 0
    """Of all that was made."""
    stages: dict[str, StageProgress] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        return self.slots - self.rejections.total()

    def as_json(self) -> dict[str, Any]:
        # `asdict` makes a counter of pairs out of a counter
        return asdict(self) | {"rejections": dict(self.rejections), "short": dict(self.short), "kept": self.kept}

    def add(self, summary: Summary, slots: int) -> None:
        self.rounds += 1
        self.slots += slots
        self.resumed += summary.resumed
        self.rejections.update(summary.rejections)
        self.audio_seconds += summary.seconds
        self.bytes += summary.bytes
        for name, progress in summary.stages.items():
            total = self.stages.setdefault(name, StageProgress())
            total.rows += progress.rows
            total.busy_seconds += progress.busy_seconds


class Planner(Protocol):
    """What decides which slots a round has."""

    def first(self) -> Iterator[Slot]:
        """All slots of the first round."""
        ...

    def again(self, short: Iterable[Slot], number: int) -> Iterator[Slot]:
        """Slots of round `number`, in place of those of the round before it that came to nothing."""
        ...


class Rounds:
    """The rounds of one run, in its staging folder."""

    def __init__(self, folder: str, planner: Planner, checks: ChecksConfig, most: int) -> None:
        """most: rounds at most."""
        self.folder, self.planner, self.checks, self.most = folder, planner, checks, most
        self.blocks: list[str] = []
        """Where the rounds so far committed their shards."""
        self.set_aside: dict[str, str] = {}
        """Slots that were filled, but repeat what another says; with the reason."""

    def fill(
        self, groups: Sequence[AnyGroup], to_table: ToTable, max_rejected_share: float, progress: Progress
    ) -> Result:
        """Go through the rounds.

        Raises `UserError` when more than `max_rejected_share` of the slots were rejected, naming the leading reason.
        """
        result, repeated_seconds = Result(), 0.0
        for number in range(self.most):
            slots = self._plan(number)
            if not slots:
                break
            blocks = self._blocks(number)
            with contextlib.closing(run_plan(self._location(number), groups, blocks, to_table)) as stream:
                for summary in stream:
                    progress(result.slots + summary.committed, result.slots + slots, _by_stage(summary))
                    rejections = result.rejections + summary.rejections
                    refused = rejections.total() > max_rejected_share * (result.slots + slots)
                    if refused:
                        break
            if refused:  # only now, since workers commit until the stream is closed
                self._refuse(rejections, result.slots + slots, max_rejected_share)
            result.add(summary, slots)
            self.blocks.append(blocks)
            repeated_seconds = self._set_repeats_aside()
        else:
            result.short.update(slot.term.text if slot.term else "" for slot in self._short())
        result.audio_seconds -= repeated_seconds
        result.rejections.update(self.set_aside.values())
        return result

    def _location(self, number: int) -> str:
        return join(self.folder, "plan", f"round-{number:02d}")

    def _blocks(self, number: int) -> str:
        return join(self.folder, BLOCKS, f"round-{number:02d}")

    def _plan(self, number: int) -> int:
        """How many slots a round has; it is planned unless that was done."""
        location = self._location(number)
        slots = count_slots(location)
        if slots is None:
            remove_location(location)
            first = number == 0
            slots = write_plan(self.planner.first() if first else self.planner.again(self._short(), number), location)
        return slots

    def _short(self) -> Iterator[Slot]:
        """The slots of the last round that came to nothing."""
        rejected = {row["slot_id"] for row in _rows(self.blocks[-1], ["slot_id", "status"]) if row["status"] != "ok"}
        rejected |= self.set_aside.keys()
        location = self._location(len(self.blocks) - 1)
        for number in range(count_pieces(location)):
            yield from (slot for slot in read_piece(location, number) if slot.slot_id in rejected)

    def _set_repeats_aside(self) -> float:
        """Find them in all rounds so far; returns how many seconds they last."""
        if self.checks.max_near_duplicates is None and self.checks.max_pattern_share is None:
            return 0.0
        import ray

        repeats: dict[str, tuple[str, float]]
        repeats = ray.get(ray.remote(num_cpus=0)(_repeats).remote(self.blocks, self.checks))
        self.set_aside |= {slot_id: reason for slot_id, (reason, _) in repeats.items()}
        return sum(seconds for _, seconds in repeats.values())

    def _refuse(self, rejections: Counter[str], slots: int, share: float) -> None:
        """Raises as soon as it is certain: nobody should wait for a run that will be refused.

        What was rejected is forgotten, and with it the rounds that were to replace it: the next try asks again.
        """
        _forget_rejected(self._blocks(0))
        for number in range(1, self.most):
            remove_location(self._blocks(number))
            remove_location(self._location(number))
        reason, count = rejections.most_common(1)[0]
        raise UserError(
            f"{rejections.total()} of {slots} utterances were rejected, more than the {share:.0%} allowed "
            f"(manifests.max_rejected_share); the leading reason ({count} times): {reason}"
        )


def _by_stage(summary: Summary) -> str:
    """How many utterances each stage has had, where some are ahead of others."""
    rows = {name: stage.rows for name, stage in summary.stages.items()}
    return " · ".join(f"{name} {count}" for name, count in rows.items()) if len(set(rows.values())) > 1 else ""


def _rows(location: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Each slot once: where two shards hold it, as the first has it, which is the one that `gather_shards` takes."""
    seen: set[str] = set()
    for shard in read_shards(location, list_files(location, ".parquet"), columns):
        for row in shard.table.to_pylist():
            if row["slot_id"] not in seen:
                seen.add(row["slot_id"])
                yield row


def _repeats(blocks: Sequence[str], checks: ChecksConfig) -> dict[str, tuple[str, float]]:
    """Which slots say again what one before them says, why, and how long they last: earlier rounds come first."""
    columns = ["slot_id", "style", "prompt", "text", "status", "duration_seconds"]
    lasts: dict[str, float] = {}

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for number, location in enumerate(blocks):
            for row in _rows(location, columns):
                if row["status"] == "ok":
                    lasts[row["slot_id"]] = row["duration_seconds"]
                    yield f"{number:02d}{row['slot_id']}", row["style"], row["prompt"], row["text"]

    return {
        slot_id[2:]: (f"transcript: {reason}", lasts[slot_id[2:]])
        for slot_id, reason in find_repeats(rows(), checks).items()
    }


def _forget_rejected(location: str) -> None:
    """Take the rejected rows out of what was committed, so that the next try asks for them again."""
    filesystem, path = open_filesystem(location)
    for name in list_files(location, ".parquet"):
        table = pq.read_table(f"{path}/{name}", filesystem=filesystem)
        kept = table.filter(pc.equal(table["status"], "ok"))
        if kept.num_rows < table.num_rows:
            sink = pa.BufferOutputStream()
            pq.write_table(kept, sink)
            write_file(join(location, name), sink.getvalue())
