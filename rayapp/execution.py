"""The one adapter from stages to Ray Data: resources, resume, rejections, progress, metrics.

A plan streams through groups of stages. All groups run at the same time, each in its own workers. The last one
commits what it finished as a shard, which appears whole or not at all; a run that was killed goes on with the
slots that no shard holds.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.plan import count_pieces, count_slots, read_piece
from rayapp.ray_session import require_room
from rayapp.records import Utterance, short_reason
from rayapp.shards import read_shards
from rayapp.stage import Resources, stage_class
from rayapp.storage import join, list_files, remove_file, write_file
from rayapp.workers import BUSY_SECONDS, Board, Sink, Source, StageProgress, Worker, pack

if TYPE_CHECKING:
    from ray.data import Dataset

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """Stages that run one after the other in the same workers."""

    stages: Sequence[Any]
    """Stage classes, or `partial`s of them with their settings. They are made in the worker: what a stage
    opens or loads never travels."""
    workers: int = 1
    gpus: float = 0.0
    """Of each worker, where its stages leave that to the settings: 0.25 lets four share one."""
    gpu_type: str | None = None
    """Ray's name of them, such as `A100`; None takes any."""

    @property
    def resources(self) -> Resources:
        """What one worker needs: its stages take turns, so the most that one of them needs."""
        each = [stage_class(stage).resources for stage in self.stages]
        return Resources(
            max(r.cpus for r in each), max([self.gpus, *(r.gpus for r in each)]), max(r.memory_gb for r in each)
        )


@dataclass(frozen=True)
class DatasetGroup:
    """A step that a library brings as Ray Data operators of its own, between two groups of stages."""

    name: str
    apply: Callable[[Dataset], Dataset]
    """Gets and returns rows of `pack`ed utterances, to which it may add `BUSY_SECONDS`."""
    version: int = 1
    """See `rayapp.stage.Stage.version`."""
    workers: int = 1
    resources: Resources = field(default_factory=Resources)


AnyGroup: TypeAlias = Group | DatasetGroup


@dataclass
class Summary:
    """What became of the slots of a run."""

    committed: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """Of the audio that was kept."""
    bytes: int = 0
    """Of the shards."""
    resumed: int = 0
    """Of the committed, those that an earlier, interrupted run had made."""
    stages: dict[str, StageProgress] = field(default_factory=dict)

    def add(self, receipt: Mapping[str, Any]) -> None:
        self.committed += receipt["rows"]
        self.seconds += receipt["seconds"]
        self.bytes += receipt["bytes"]
        self.rejections.update(receipt["reasons"])
        for busy in receipt["busy"]:
            stage = self.stages.setdefault(busy["stage"], StageProgress())
            stage.rows += receipt["rows"]
            stage.busy_seconds += busy["seconds"]


ToTable = Callable[[Sequence[Utterance]], pa.Table]


def run_plan(plan: str, groups: Sequence[AnyGroup], shards: str, to_table: ToTable) -> Generator[Summary, None, None]:
    """Fill the slots of a plan and commit them as parquet shards; yields a summary after each shard.

    plan: location of what `rayapp.plan.write_plan` wrote.
    shards: location that all workers can write to. What it holds already is not made again.
    to_table: how finished utterances look in the shards; must keep `slot_id`, `duration_seconds`, `status` and
        `reason`.

    Raises `UserError` when the groups want more than this machine has, where a stage refuses its settings, and where
    workers die again and again; and `OSError` where the storage does not take a shard.
    """
    import ray

    summary, committed = _resumed(shards)
    yield summary
    if len(pc.unique(committed)) == count_slots(plan):
        return
    require_room(
        sum(group.workers * group.resources.cpus for group in groups),
        sum(group.workers * group.resources.gpus for group in groups),
        f"lower the numbers of workers ({' + '.join(str(group.workers) for group in groups)})",
        memory_gb=sum(group.workers * group.resources.memory_gb for group in groups),
    )
    board = ray.remote(num_cpus=0)(Board).remote()
    dataset = _stream(plan, groups, _Pieces(plan, ray.put(committed)), _Shards(shards, to_table), board)
    asked = time.monotonic()
    try:
        for receipts in _unless_faulty(dataset.iter_batches(batch_size=None, batch_format="pyarrow"), board):
            for receipt in receipts.to_pylist():
                if receipt["errno"]:
                    raise OSError(receipt["errno"], receipt["error"])
                summary.add(receipt)
            if time.monotonic() - asked > _ASK_SECONDS:
                summary.stages, asked = summary.stages | _stages(board), time.monotonic()
            yield summary
        summary.stages |= _stages(board)
        yield summary
    finally:
        ray.kill(board)  # Ray Data remembers the dataset, and with it the board


def _stream(plan: str, groups: Sequence[AnyGroup], source: Source, sink: Sink, board: Any) -> Dataset:
    """The receipts of what was committed, to be."""
    import ray

    dataset = ray.data.from_arrow(_bundles(count_pieces(plan), sum(group.workers for group in groups)))
    if isinstance(groups[0], DatasetGroup):
        dataset = dataset.map_batches(_read, fn_args=(source,), num_cpus=0, **_WHOLE_BLOCKS)
    for number, group in enumerate(groups):
        if isinstance(group, DatasetGroup):
            dataset = group.apply(dataset).map_batches(
                _count, fn_kwargs={"name": group.name, "board": board}, num_cpus=0, **_WHOLE_BLOCKS
            )
            continue
        first, last = number == 0, number == len(groups) - 1
        dataset = _add_group(dataset, group, source if first else None, sink if last else None, board)
    return dataset


def _unless_faulty(batches: Iterable[pa.Table], board: Any) -> Iterator[pa.Table]:
    """Raises `UserError` where the run ends since a worker found that it cannot go on."""
    import ray

    try:
        yield from batches
    except Exception:
        if fault := ray.get(board.fault.remote()):
            raise UserError(fault) from None
        raise


def bundle_count(pieces: int, workers: int) -> int:
    """Into how many bundles a plan is cut; a worker takes one at a time.

    Ray Data's driver remembers some 40 kB of each block that it ever had: there are as many for a plan of a million
    as for one of ten thousand, but enough for every worker to have its share.
    """
    return min(pieces, max(_BUNDLES, 8 * workers))


def _bundles(pieces: int, workers: int) -> list[pa.Table]:
    """The numbers of the pieces that go to a worker together, (first, last) each."""
    edges = np.linspace(0, pieces, bundle_count(pieces, workers) + 1).astype(int).tolist()
    return [pa.table({"first": [first], "last": [last]}) for first, last in pairwise(edges)]


def _stages(board: Any) -> dict[str, StageProgress]:
    import ray

    try:
        stages: dict[str, StageProgress] = ray.get(board.stages.remote())
    except ray.exceptions.RayActorError:  # it only counts: the run goes on without
        return {}
    return stages


_BUNDLES = 256
_ASK_SECONDS = 1.0
"""The board is asked no more often: it takes time from the stages."""
_COLUMNS = ["slot_id", "duration_seconds", "status", "reason"]
"""What `to_table` must keep."""
_WHOLE_BLOCKS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}


@dataclass(frozen=True)
class _Pieces:
    """A plan's pieces, without the slots that were filled before."""

    plan: str
    committed: Any
    """Reference to the slot IDs that shards hold already."""

    def read(self, bundle: pa.Table) -> Iterator[list[Utterance]]:
        import ray

        committed = set(ray.get(self.committed).to_pylist())
        for row in bundle.to_pylist():
            for number in range(row["first"], row["last"]):
                todo = [slot for slot in read_piece(self.plan, number) if slot.slot_id not in committed]
                if todo:
                    yield [Utterance(slot) for slot in todo]


def _count(table: pa.Table, name: str, board: Any) -> pa.Table:
    """Tell the board what a library's own operators tell in their rows."""
    if BUSY_SECONDS in table.column_names and table.num_rows:
        board.count.remote(table.num_rows, {name: pc.sum(table[BUSY_SECONDS]).as_py()})
    return table


def _read(bundle: pa.Table, source: Source) -> Iterator[pa.Table]:
    for utterances in source.read(bundle):
        yield pack(utterances)


@dataclass(frozen=True)
class _Shards:
    """The folder of the shards that a run commits."""

    shards: str
    to_table: ToTable

    def commit(self, utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> pa.Table:
        finished = self.to_table(utterances)
        name = content_id(finished["slot_id"].to_pylist())  # a task that Ray repeats writes the same shard again
        sink = pa.BufferOutputStream()
        pq.write_table(finished, sink)
        shard = sink.getvalue()
        busy = [{"stage": stage, "seconds": taken} for stage, taken in seconds.items()]
        receipt = _receipt(finished, shard.size) | {"busy": busy}
        try:
            write_file(join(self.shards, f"{name}.parquet"), shard)
        except OSError as error:  # told, not raised: what Ray makes of an exception does not say that the disk is full
            receipt |= {"errno": error.errno or errno.EIO, "error": error.strerror or str(error)}
        return pa.Table.from_pylist([receipt])


def _add_group(dataset: Dataset, group: Group, source: Source | None, sink: Sink | None, board: Any) -> Dataset:
    import ray

    resources = group.resources
    return dataset.map_batches(
        Worker,
        fn_constructor_kwargs={"stages": group.stages, "source": source, "sink": sink, "board": board},
        compute=ray.data.ActorPoolStrategy(size=group.workers),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        memory=int(resources.memory_gb * 1e9),
        accelerator_type=group.gpu_type,
        **_WHOLE_BLOCKS,
    )


def _receipt(finished: pa.Table, size: int) -> dict[str, Any]:
    reasons = [short_reason(reason) for reason in finished["reason"].to_pylist() if reason]
    kept = finished.filter(pc.equal(finished["status"], "ok"))
    return {
        "rows": finished.num_rows,
        "seconds": float(pc.sum(kept["duration_seconds"]).as_py() or 0.0),
        "reasons": reasons,
        "bytes": size,
        "busy": [],
        "errno": 0,
        "error": "",
    }


def _resumed(shards: str) -> tuple[Summary, pa.Array]:
    """What was committed before, and the IDs of its slots."""
    summary, slots = Summary(), [pa.array([], pa.string())]

    def forget(name: str) -> None:
        """A machine that lost its power had named the file, but not written it."""
        _logger.warning("shard %s is broken: what it held is made again", name)
        remove_file(join(shards, name))

    for shard in read_shards(shards, list_files(shards, ".parquet"), _COLUMNS, forget):
        summary.add(_receipt(shard.table, shard.bytes))
        slots.append(shard.table["slot_id"].combine_chunks())
    summary.resumed = summary.committed
    return summary, pa.concat_arrays(slots)
