"""A plan on disk: a folder of parquet files whose row groups are the pieces that workers take.

So nobody holds a whole plan in memory, and a run of a million utterances costs its driver as little as one of a
thousand.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rayapp.records import PLAN_SCHEMA, Slot, slots_from_table, slots_to_table
from rayapp.storage import join, list_files, open_filesystem, write_file

T = TypeVar("T")
PIECE_ROWS = 32
"""Slots that a worker takes at a time: a second or so of work, so that the workers end together."""
_PIECES_PER_FILE = 256
_WRITTEN = "plan.json"
"""Written last: a plan without it was interrupted, and is written again."""


@dataclass(frozen=True)
class Piece:
    """Some slots of a plan: a row group of one of its files."""

    file: str
    row_group: int


def write_plan(slots: Iterable[Slot], location: str) -> int:
    """Write the slots, as they come, and return how many there are."""
    rows = 0
    pieces = _batches(slots, PIECE_ROWS)
    for number, several in enumerate(_batches(pieces, _PIECES_PER_FILE)):
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, PLAN_SCHEMA) as writer:
            for piece in several:
                writer.write_table(slots_to_table(piece))
                rows += len(piece)
        write_file(join(location, f"{number:05d}.parquet"), sink.getvalue())
    write_file(join(location, _WRITTEN), json.dumps({"slots": rows}).encode())
    return rows


def count_slots(location: str) -> int | None:
    """How many slots a plan has; None where none was written to its end."""
    filesystem, path = open_filesystem(join(location, _WRITTEN))
    try:
        with filesystem.open_input_stream(path) as stream:
            return int(json.loads(stream.read())["slots"])
    except FileNotFoundError:
        return None


def pieces_of(location: str) -> list[Piece]:
    filesystem, path = open_filesystem(location)
    return [
        Piece(name, group)
        for name in list_files(location, ".parquet")
        for group in range(pq.read_metadata(f"{path}/{name}", filesystem=filesystem).num_row_groups)
    ]


def read_piece(location: str, piece: Piece) -> list[Slot]:
    filesystem, path = open_filesystem(join(location, piece.file))
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        return slots_from_table(file.read_row_group(piece.row_group))


def slot_ids_of(location: str, piece: Piece) -> pa.Array:
    filesystem, path = open_filesystem(join(location, piece.file))
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        return file.read_row_group(piece.row_group, columns=["slot_id"])["slot_id"].combine_chunks()


def read_plan(location: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of all slots, a few thousand rows at a time."""
    filesystem, path = open_filesystem(location)
    files = [f"{path}/{name}" for name in list_files(location, ".parquet")]
    if files:
        yield from ds.dataset(files, filesystem=filesystem, format="parquet").to_batches(columns=columns)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
