"""The one adapter from stages to Ray Data: resources, resume, rejections, progress, metrics.

A plan streams through groups of stages. All groups run at the same time, each in its own workers. The last one
commits what it finished as a shard, which appears whole or not at all; a run that was killed goes on with the
slots that no shard holds.
"""

from __future__ import annotations

import errno
import logging
import pickle
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayapp.errors import RejectedError
from rayapp.ids import content_id
from rayapp.plan import count_pieces, count_slots, read_piece
from rayapp.ray_session import require_room
from rayapp.records import Utterance, short_reason
from rayapp.stage import BatchStage, Resources, Stage
from rayapp.storage import join, list_files, open_filesystem, write_file

if TYPE_CHECKING:
    from ray.data import Dataset

_logger = logging.getLogger(__name__)
_UTTERANCE = "utterance"
"""The column that travels between groups: utterances, pickled. Only our own workers write it."""


@dataclass(frozen=True)
class Group:
    """Stages that run one after the other in the same workers."""

    stages: Sequence[Any]
    """Stage classes, or `partial`s of them with their settings. They are made in the worker: what a stage
    opens or loads never travels."""
    workers: int = 1
    gpus: float = 0.0
    """Of each worker, where its stages leave that to the settings: 0.25 lets four share one."""

    @property
    def resources(self) -> Resources:
        """What one worker needs: its stages take turns, so the most that one of them needs."""
        each = [getattr(stage, "func", stage).resources for stage in self.stages]
        return Resources(
            max(r.cpus for r in each), max([self.gpus, *(r.gpus for r in each)]), max(r.memory_gb for r in each)
        )


@dataclass(frozen=True)
class DatasetGroup:
    """A step that a library brings as Ray Data operators of its own, between two groups of stages."""

    name: str
    apply: Callable[[Dataset], Dataset]
    """Gets and returns rows of `pack`ed utterances."""
    workers: int = 1
    resources: Resources = field(default_factory=Resources)


AnyGroup: TypeAlias = Group | DatasetGroup


@dataclass
class StageProgress:
    """How far a stage is."""

    rows: int = 0
    busy_seconds: float = 0.0
    """Summed over its workers."""


@dataclass
class Summary:
    """What became of the slots of a run."""

    committed: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """Of audio."""
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

    Raises `UserError` when the groups want more than this machine has, and `OSError` where the storage does not take
    a shard.
    """
    import ray

    summary = _summary_of(shards)
    summary.resumed = summary.committed
    yield summary
    committed = _committed(shards)
    if len(pc.unique(committed)) == count_slots(plan):
        return
    require_room(
        sum(group.workers * group.resources.cpus for group in groups),
        sum(group.workers * group.resources.gpus for group in groups),
        f"lower the numbers of workers ({' + '.join(str(group.workers) for group in groups)})",
    )
    board = ray.remote(num_cpus=0)(_Board).remote()
    source = _Source(plan, ray.put(committed))
    sink = _Sink(shards, to_table)
    dataset = ray.data.from_arrow(_bundles(count_pieces(plan), sum(group.workers for group in groups)))
    if isinstance(groups[0], DatasetGroup):
        dataset = dataset.map_batches(_read, fn_args=(source,), num_cpus=0, **_WHOLE_BLOCKS)
    for number, group in enumerate(groups):
        if isinstance(group, DatasetGroup):
            dataset = group.apply(dataset)
            continue
        first, last = number == 0, number == len(groups) - 1
        dataset = _add_group(dataset, group, source if first else None, sink if last else None, board)
    asked = time.monotonic()
    for receipts in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for receipt in receipts.to_pylist():
            if receipt["errno"]:
                raise OSError(receipt["errno"], receipt["error"])
            summary.add(receipt)
        if time.monotonic() - asked > _ASK_SECONDS:
            summary.stages, asked = summary.stages | _stages(board), time.monotonic()
        yield summary
    summary.stages |= _stages(board)
    yield summary


def _bundles(pieces: int, workers: int) -> list[pa.Table]:
    """The numbers of the pieces that go to a worker together, (first, last) each.

    Ray Data's driver remembers some 40 kB of each block that it ever had: there are as many for a plan of a million
    as for one of ten thousand, but enough for every worker to have its share.
    """
    edges = np.linspace(0, pieces, min(pieces, max(_BUNDLES, 8 * workers)) + 1).astype(int).tolist()
    return [pa.table({"first": [first], "last": [last]}) for first, last in pairwise(edges)]


def _stages(board: Any) -> dict[str, StageProgress]:
    import ray

    try:
        stages: dict[str, StageProgress] = ray.get(board.told.remote())
    except ray.exceptions.RayActorError:  # it only counts: the run goes on without
        return {}
    return stages


_BUNDLES = 256
_ASK_SECONDS = 1.0
"""The board is asked no more often: it takes time from the stages."""
_WHOLE_BLOCKS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}


def pack(utterances: Sequence[Utterance]) -> pa.Table:
    """Utterances as they travel between groups, a row each."""
    return pa.table({_UTTERANCE: pa.array([pickle.dumps(u) for u in utterances], pa.large_binary())})


def unpack(table: pa.Table) -> list[Utterance]:
    """What `pack` packed."""
    return [pickle.loads(row) for row in table[_UTTERANCE].to_pylist()]  # noqa: S301 (our own workers' alone)


@dataclass(frozen=True)
class _Source:
    """Where the first group takes its slots from."""

    plan: str
    committed: Any
    """Reference to the slot IDs that shards hold already."""

    def read(self, bundle: pa.Table) -> Iterator[list[Utterance]]:
        """The utterances to be of each piece of a bundle, but for those that are there already."""
        import ray

        committed = set(ray.get(self.committed).to_pylist())
        for row in bundle.to_pylist():
            for number in range(row["first"], row["last"]):
                todo = [slot for slot in read_piece(self.plan, number) if slot.slot_id not in committed]
                if todo:
                    yield [Utterance(slot) for slot in todo]


def _read(bundle: pa.Table, source: _Source) -> Iterator[pa.Table]:
    for utterances in source.read(bundle):
        yield pack(utterances)


@dataclass(frozen=True)
class _Sink:
    """Where the last group leaves what it finished."""

    shards: str
    to_table: ToTable

    def commit(self, utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> pa.Table:
        """Write a shard; the receipt tells what is in it, and how long each of the last stages took."""
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


def _add_group(dataset: Dataset, group: Group, source: _Source | None, sink: _Sink | None, board: Any) -> Dataset:
    import ray

    resources = group.resources
    return dataset.map_batches(
        _Worker,
        fn_constructor_kwargs={"stages": group.stages, "source": source, "sink": sink, "board": board},
        compute=ray.data.ActorPoolStrategy(size=group.workers),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        memory=int(resources.memory_gb * 1e9),
        **_WHOLE_BLOCKS,
    )


class _Worker:
    """One copy of a group of stages; the first group reads its slots itself, the last one commits."""

    def __init__(
        self, stages: Sequence[Callable[[], Any]], source: _Source | None, sink: _Sink | None, board: Any
    ) -> None:
        self.stages = [make() for make in stages]
        self.source, self.sink, self.board = source, sink, board
        self.metrics = _Metrics()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for utterances in self.source.read(table) if self.source else [unpack(table)]:
            seconds: dict[str, float] = {}
            done = run_stages(self.stages, utterances, seconds)
            self.metrics.count_work(seconds)
            if self.sink:
                receipt = self.sink.commit(done, seconds)
                yield receipt
                if receipt["errno"][0].as_py():
                    return  # the storage takes nothing: what else there is in the bundle would be lost as well
                self.metrics.count_committed(done)
            else:
                self.board.add.remote(len(done), seconds)
                yield pack(done)


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


class _Board:
    """Counts what the stages have done whose groups commit nothing, for people who wait."""

    def __init__(self) -> None:
        self.stages: dict[str, StageProgress] = {}

    def add(self, rows: int, seconds: Mapping[str, float]) -> None:
        for name, busy in seconds.items():
            stage = self.stages.setdefault(name, StageProgress())
            stage.rows += rows
            stage.busy_seconds += busy

    def told(self) -> dict[str, StageProgress]:
        return self.stages


class _Metrics:
    """What Prometheus is told, through Ray's own exporter."""

    def __init__(self) -> None:
        from ray.util import metrics

        self.rows = metrics.Counter("rayapp_utterances", "Utterances committed.", tag_keys=("status",))
        self.audio = metrics.Counter("rayapp_audio_seconds", "Seconds of speech committed.")
        self.rejected = metrics.Counter("rayapp_rejections", "Utterances rejected, by reason.", tag_keys=("reason",))
        self.busy = metrics.Counter("rayapp_stage_busy_seconds", "Seconds that stages worked.", tag_keys=("stage",))

    def count_work(self, seconds: Mapping[str, float]) -> None:
        for stage, busy in seconds.items():
            self.busy.inc(busy + 1e-9, {"stage": stage})

    def count_committed(self, utterances: Sequence[Utterance]) -> None:
        for status, rows in Counter(u.status for u in utterances).items():
            self.rows.inc(rows, {"status": status})
        self.audio.inc(sum(u.duration_seconds for u in utterances) + 1e-9)  # it refuses 0
        for reason, rows in Counter(short_reason(u.reason) for u in utterances if u.reason).items():
            self.rejected.inc(rows, {"reason": reason})


def _receipt(finished: pa.Table, size: int) -> dict[str, Any]:
    reasons = [short_reason(reason) for reason in finished["reason"].to_pylist() if reason]
    return {
        "rows": finished.num_rows,
        "seconds": float(pc.sum(finished["duration_seconds"]).as_py() or 0.0),
        "reasons": reasons,
        "bytes": size,
        "busy": [],
        "errno": 0,
        "error": "",
    }


def _summary_of(shards: str) -> Summary:
    summary = Summary()
    for table, size in _read_shards(shards, ["duration_seconds", "reason"]):
        summary.add(_receipt(table, size))
    return summary


def _committed(shards: str) -> pa.Array:
    tables = [table["slot_id"].combine_chunks() for table, _ in _read_shards(shards, ["slot_id"])]
    return pa.concat_arrays(tables) if tables else pa.array([], pa.string())


def _read_shards(shards: str, columns: list[str]) -> Iterator[tuple[pa.Table, int]]:
    """Each shard, and its bytes."""
    filesystem, path = open_filesystem(shards)
    for name in list_files(shards, ".parquet"):
        shard = f"{path}/{name}"
        yield pq.read_table(shard, columns=columns, filesystem=filesystem), filesystem.get_file_info(shard).size
