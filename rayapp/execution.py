"""The one adapter from stages to Ray Data: resources, resume, rejections, progress.

A plan (parquet of slots) streams through groups of stages. All groups run at the same time, each in
its own workers; a finished block of utterances is committed as one shard, by a rename. A run that
was killed goes on with the slots that no shard holds.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rayapp.errors import RejectedError, UserError
from rayapp.ids import content_id
from rayapp.ray_session import require_room
from rayapp.records import PLAN_SCHEMA, Utterance, utterances_from_table, utterances_to_table
from rayapp.stage import Resources, Stage

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


@dataclass
class Summary:
    """What became of the slots of a run."""

    committed: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    resumed: int = 0
    """Of the committed, those that an earlier, interrupted run had made."""


ToTable = Callable[[Sequence[Utterance]], pa.Table]


def run_plan(
    plan: pa.Table,
    groups: Sequence[Group],
    shards: Path,
    to_table: ToTable,
    *,
    rows_per_block: int = 64,
    max_rejected_share: float = 0.05,
) -> Iterator[Summary]:
    """Fill the slots of a plan and commit them as parquet shards; yields a summary after each shard.

    shards: folder that all workers can write to. What it holds already is not made again.
    to_table: how finished utterances look in the shards; must keep `slot_id`, `status` and `reason`.

    Raises `UserError` when the groups want more than this machine has, or when more than `max_rejected_share` of
    the slots were rejected, naming the leading reason.
    """
    import ray

    shards.mkdir(parents=True, exist_ok=True)
    summary = _summary_of(shards)
    todo = _without(plan, _committed(shards))
    summary.resumed = summary.committed
    yield summary
    if todo.num_rows:
        each = [(group.workers, _resources(group)) for group in groups]
        require_room(
            sum(workers * needs.cpus for workers, needs in each),
            sum(workers * needs.gpus for workers, needs in each),
            f"lower the numbers of workers ({' + '.join(str(workers) for workers, _ in each)})",
        )
        dataset = ray.data.from_arrow(_blocks(todo, rows_per_block))
        for group in groups:
            dataset = _add_group(dataset, group)
        dataset = dataset.map_batches(
            _commit,
            fn_kwargs={"shards": shards, "to_table": to_table},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # waits for the disk; must find room however busy the stages are
        )
        for receipts in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for receipt in receipts.to_pylist():
                summary.committed += receipt["rows"]
                summary.seconds += receipt["seconds"]
                summary.rejections.update(receipt["reasons"])
            yield summary
    rejected = summary.rejections.total()
    if rejected > max_rejected_share * plan.num_rows:
        reason, count = summary.rejections.most_common(1)[0]
        shutil.rmtree(shards)  # or the next try would find the same rejections
        raise UserError(
            f"{rejected} of {plan.num_rows} utterances were rejected, more than the {max_rejected_share:.0%} allowed; "
            f"the leading reason ({count} times): {reason}"
        )


def _resources(group: Group) -> Resources:
    """What one worker of a group needs: its stages take turns, so the most that one of them needs."""
    each = [getattr(stage, "func", stage).resources for stage in group.stages]
    return Resources(max(r.cpus for r in each), max(r.gpus for r in each), max(r.memory_gb for r in each))


def _add_group(dataset: Dataset, group: Group) -> Dataset:
    import ray

    resources = _resources(group)
    return dataset.map_batches(
        _Worker,
        fn_constructor_kwargs={"stages": group.stages},
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=group.workers),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        memory=int(resources.memory_gb * 1e9),
    )


class _Worker:
    """One copy of a group of stages, fed with tables of utterances."""

    def __init__(self, stages: Sequence[Callable[[], Stage]]) -> None:
        self.stages = [make() for make in stages]

    def __call__(self, table: pa.Table) -> pa.Table:
        return utterances_to_table([run_stages(self.stages, utterance) for utterance in utterances_from_table(table)])


def run_stages(stages: Sequence[Stage], utterance: Utterance) -> Utterance:
    """Take one utterance through the stages; a stage that rejects it ends its way, with the reason."""
    for stage in stages:
        if utterance.status == "rejected":
            break
        try:
            utterance = stage(utterance)
        except RejectedError as error:
            utterance = utterance.rejected(f"{stage.name}: {error}")
        except Exception as error:  # a bad row never kills a batch
            _logger.exception("stage %s failed on slot %s", stage.name, utterance.slot.slot_id)
            utterance = utterance.rejected(f"{stage.name}: {type(error).__name__}")
    return utterance


def _commit(table: pa.Table, shards: Path, to_table: ToTable) -> pa.Table:
    """Write a block as a shard: under another name first, so that a shard is whole or absent."""
    finished = to_table(utterances_from_table(table))
    name = content_id(finished["slot_id"].to_pylist())  # a task that Ray repeats writes the same shard again
    pq.write_table(finished, shards / f".{name}.tmp")
    (shards / f".{name}.tmp").rename(shards / f"{name}.parquet")
    return pa.Table.from_pylist([_receipt(finished)])


def _receipt(finished: pa.Table) -> dict[str, Any]:
    reasons = [reason for reason in finished["reason"].to_pylist() if reason]
    return {
        "rows": finished.num_rows,
        "seconds": float(sum(finished["duration_seconds"].to_pylist())),
        "reasons": reasons,
    }


def _summary_of(shards: Path) -> Summary:
    summary = Summary()
    for shard in shards.glob("*.parquet"):
        receipt = _receipt(pq.read_table(shard, columns=["duration_seconds", "reason"]))
        summary.committed += receipt["rows"]
        summary.seconds += receipt["seconds"]
        summary.rejections.update(receipt["reasons"])
    return summary


def _committed(shards: Path) -> pa.Array:
    names = sorted(str(shard) for shard in shards.glob("*.parquet"))
    if not names:
        return pa.array([], pa.string())
    return ds.dataset(names).to_table(columns=["slot_id"])["slot_id"].combine_chunks()


def _without(plan: pa.Table, slot_ids: pa.Array) -> pa.Table:
    import pyarrow.compute as pc

    return plan.filter(pc.invert(pc.is_in(plan["slot_id"], value_set=slot_ids))).cast(PLAN_SCHEMA)


def _blocks(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]
