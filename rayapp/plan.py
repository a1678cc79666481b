"""A plan on disk: a folder of parquet files whose row groups are the pieces that workers take.

So nobody holds a whole plan in memory, and a run of a million utterances costs its driver as little as one of a
thousand.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rayapp.records import PLAN_SCHEMA, Slot, slots_from_table, slots_to_table
from rayapp.storage import join, open_filesystem, write_file

T = TypeVar("T")
PIECE_ROWS = 32
"""Slots that a worker takes at a time: a second or so of work, so that the workers end together."""
_PIECES_PER_FILE = 256
_WRITTEN = "plan.json"
"""Written last: a plan without it was interrupted, and is written again."""


def write_plan(slots: Iterable[Slot], location: str) -> int:
    """Write the slots, as they come, and return how many there are."""
    rows = pieces = 0
    for number, several in enumerate(_batches(_batches(slots, PIECE_ROWS), _PIECES_PER_FILE)):
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, PLAN_SCHEMA) as writer:
            for piece in several:
                writer.write_table(slots_to_table(piece))
                rows, pieces = rows + len(piece), pieces + 1
        write_file(join(location, _file(number)), sink.getvalue())
    write_file(join(location, _WRITTEN), json.dumps({"slots": rows, "pieces": pieces}).encode())
    return rows


def count_slots(location: str) -> int | None:
    """How many slots a plan has; None where none was written to its end."""
    return _written(location).get("slots")


def count_pieces(location: str) -> int:
    """How many pieces a plan has; they are numbered from 0."""
    return _written(location)["pieces"]


def read_piece(location: str, number: int) -> list[Slot]:
    """The slots of one piece."""
    filesystem, path = open_filesystem(join(location, _file(number // _PIECES_PER_FILE)))
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        return slots_from_table(file.read_row_group(number % _PIECES_PER_FILE))


def _file(number: int) -> str:
    return f"{number:05d}.parquet"


def _written(location: str) -> dict[str, int]:
    filesystem, path = open_filesystem(join(location, _WRITTEN))
    try:
        with filesystem.open_input_stream(path) as stream:
            written: dict[str, int] = json.loads(stream.read())
            return written
    except FileNotFoundError:
        return {}


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
