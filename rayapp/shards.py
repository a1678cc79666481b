"""Committed shards read back: parquet files of a folder, several at a time, since storage may answer late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet as pq

from rayapp.storage import open_filesystem

_READS_AT_ONCE = 16


class Shard(NamedTuple):
    """One file."""

    name: str
    table: pa.Table
    bytes: int
    """Of the whole file."""


def read_shards(
    location: str, names: Sequence[str], columns: Sequence[str], on_broken: Callable[[str], None] | None = None
) -> Iterator[Shard]:
    """Those columns of the files of a folder, in their order.

    on_broken: called with the name of a file that is no parquet. Without it, raises `pyarrow.ArrowInvalid`, as for a
        column that a file has not.
    """
    filesystem, path = open_filesystem(location)

    def read(name: str) -> Shard | pa.ArrowInvalid:
        with filesystem.open_input_file(f"{path}/{name}") as file:
            try:
                parquet = pq.ParquetFile(file)
            except pa.ArrowInvalid as error:
                return error
            if missing := set(columns) - set(parquet.schema_arrow.names):
                raise pa.ArrowInvalid(f"{location}/{name} has no {', '.join(sorted(missing))}")
            return Shard(name, parquet.read(list(columns)), file.size())

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        for start in range(0, len(names), _READS_AT_ONCE):  # and not all: they would be held
            some = names[start : start + _READS_AT_ONCE]
            for name, shard in zip(some, pool.map(read, some), strict=True):
                if isinstance(shard, Shard):
                    yield shard
                elif on_broken:
                    on_broken(name)
                else:
                    raise shard
