"""From the shards that workers committed to a manifest: `data/<split>-00000-of-00001.parquet`.

Each shard of the manifest is written by a task of its own, a few rows at a time: neither the driver nor a worker
holds a manifest in memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayapp.manifest import REJECTED
from rayapp.records import MANIFEST_SCHEMA
from rayapp.shards import Shard, read_shards
from rayapp.storage import join, list_files, open_filesystem, open_output, remove_location, write_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS_PER_GROUP = 64
_LAYOUT = "layout"
_SMALL = ["slot_id", "split", "status"]


class _Output(NamedTuple):
    """One shard of the manifest."""

    split: str
    number: int
    of: int
    sources: list[str]
    """Committed shards, one of which may be shared with the shard before or after."""
    first: int
    """Rows of the split to skip in them."""
    rows: int
    repeated: dict[str, list[str]]
    """Of a source, the slots that an earlier one holds already: a worker that was thought dead had gone on."""


def gather_shards(blocks: Sequence[str], folder: str, shard_mb: int, set_aside: Mapping[str, str]) -> None:
    """Rewrite the committed shards as a manifest's.

    blocks: locations of the folders that hold them, in order.
    set_aside: slots that are rejected after all, with the reason.
    """
    import ray

    remove_location(join(folder, "data"))
    aside = ray.put(dict(set_aside))
    shards = ray.get(ray.remote(num_cpus=0)(_lay_out).remote(blocks, folder, aside, shard_mb))
    write = ray.remote(num_cpus=1)(_write)  # as many at a time as there are CPUs
    ray.get([write.remote(folder, number, aside) for number in range(shards)])
    remove_location(join(folder, _LAYOUT))


def _lay_out(blocks: Sequence[str], folder: str, set_aside: Mapping[str, str], shard_mb: int) -> int:
    """Decide which rows go where, and leave it in files: it grows with the run. Returns how many shards there will be.

    The rows of a split are in the order of the committed shards, whose names are drawn by hash.
    """
    outputs = _outputs(blocks, set_aside, shard_mb)
    for number, output in enumerate(outputs):
        write_file(join(folder, _LAYOUT, f"{number}.json"), json.dumps(output._asdict()).encode())
    return len(outputs)


def _outputs(blocks: Sequence[str], set_aside: Mapping[str, str], shard_mb: int) -> list[_Output]:
    counts: dict[str, list[tuple[str, int]]] = {}
    sizes: dict[str, float] = {}
    seen: set[str] = set()
    repeated: dict[str, list[str]] = {}
    found = ((join(block, shard.name), shard) for block in blocks for shard in _small(block))
    for source, (_, table, size) in found:
        slots = set(table["slot_id"].to_pylist())
        if again := slots & seen:
            repeated[source] = sorted(again)
            table = _without(table, again)
        seen |= slots
        size /= max(table.num_rows, 1)
        for split, rows in zip(*np.unique(_splits(table, set_aside), return_counts=True), strict=True):
            counts.setdefault(str(split), []).append((source, int(rows)))
            sizes[str(split)] = sizes.get(str(split), 0.0) + size * int(rows)
    return [
        output
        for split, each in sorted(counts.items())
        for output in _shards_of(split, each, max(1, int(np.ceil(sizes[split] / (shard_mb * 1e6)))), repeated)
    ]


def _small(block: str) -> Iterator[Shard]:
    return read_shards(block, list_files(block, ".parquet"), _SMALL)


def _shards_of(
    split: str, each: Sequence[tuple[str, int]], shards: int, repeated: dict[str, list[str]]
) -> Iterator[_Output]:
    """each: the committed shards that have rows of the split, and how many."""
    ends = np.cumsum([rows for _, rows in each])
    edges = np.linspace(0, ends[-1], shards + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(edges)):
        first, last = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left"))
        before = int(ends[first - 1]) if first else 0
        sources = [source for source, _ in each[first : last + 1]]
        yield _Output(split, number, shards, sources, int(start) - before, int(stop - start), repeated)


def _write(folder: str, number: int, set_aside: Mapping[str, str]) -> None:
    filesystem, path = open_filesystem(join(folder, _LAYOUT, f"{number}.json"))
    with filesystem.open_input_stream(path) as stream:
        output = _Output(**json.loads(stream.read()))
    shard = join(folder, "data", f"{output.split}-{output.number:05d}-of-{output.of:05d}.parquet")
    rows = (_rows(source, output, set_aside) for source in output.sources)
    with open_output(shard) as stream, pq.ParquetWriter(stream, MANIFEST_SCHEMA) as writer:
        skip, left = output.first, output.rows
        waiting: list[pa.Table] = []
        for table in rows:
            part = table.slice(skip, left)
            skip, left = max(skip - table.num_rows, 0), left - part.num_rows
            waiting.append(part)
            if sum(t.num_rows for t in waiting) >= _ROWS_PER_GROUP or not left:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
            if not left:
                break


def _rows(source: str, output: _Output, set_aside: Mapping[str, str]) -> pa.Table:
    filesystem, path = open_filesystem(source)
    table = _without(pq.read_table(path, filesystem=filesystem), output.repeated.get(source, []))
    chosen = table.filter(pa.array(_splits(table, set_aside) == output.split))
    if output.split == REJECTED and set_aside:
        reasons = [
            set_aside.get(slot_id, reason)
            for slot_id, reason in zip(chosen["slot_id"].to_pylist(), chosen["reason"].to_pylist(), strict=True)
        ]
        chosen = _replaced(chosen, reason=pa.array(reasons), status=pa.array(["rejected"] * chosen.num_rows))
        chosen = _replaced(chosen, audio=pa.nulls(chosen.num_rows, MANIFEST_SCHEMA.field("audio").type))
    return chosen


def _without(table: pa.Table, slots: Collection[str]) -> pa.Table:
    if not slots:
        return table
    return table.filter(pc.invert(pc.is_in(table["slot_id"], value_set=pa.array(list(slots), pa.string()))))


def _splits(table: pa.Table, set_aside: Mapping[str, str]) -> NDArray[np.str_]:
    """Of each row, the split whose shards it goes to."""
    rejected = np.asarray(pc.equal(table["status"], "rejected"))
    if set_aside:
        rejected |= np.array([slot_id in set_aside for slot_id in table["slot_id"].to_pylist()], bool)
    return np.where(rejected, REJECTED, np.asarray(table["split"].to_pylist(), object)).astype(str)


def _replaced(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table
