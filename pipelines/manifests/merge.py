"""Several manifests into one, each utterance once."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.manifests.card import CLONED_VOICES, write_card
from pipelines.manifests.repeats import Part, find_kept
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.manifest import Manifest
from rayapp.storage import join, key_of, name_of, open_output, published_location, write_file

Progress = Callable[[int, int], None]
"""Called with how many rows are written, and of how many."""
_SHARD_BYTES = 512e6
_Piece = tuple[int, pa.RecordBatch]
"""The number of a shard, and some rows of it."""


@dataclass(frozen=True)
class Merged:
    """What a merge wrote."""

    rows: int
    """With those that were rejected."""
    repeated: int
    """Rows that were left out, because they are there already."""


def merge(locations: Sequence[str], output: str, progress: Progress = lambda done, total: None) -> Merged:
    """Write the rows of several manifests, in their order, as one manifest with a card and a `sources.json`.

    A row is written once, and a rejected one only where the same utterance was not made after all. The card names the
    licences of all of them.

    Raises `UserError` for manifests whose columns differ, and for rows that have the same ID and differ.
    """
    manifests = [Manifest(location) for location in locations]
    schema = _common_schema(manifests)
    parts = find_kept(manifests)
    if (key := key_of(output)) is not None and not key.startswith("merge-"):
        raise UserError(f"{output} exists and was not made by a merge; it would be replaced: choose another folder")
    sources = [{"manifest": str(m.location), "key": key_of(m.location), "licences": m.licences} for m in manifests]
    licences = sorted({licence for manifest in manifests for licence in manifest.licences})
    cloned_voices = any(CLONED_VOICES in (manifest.card().get("tags") or []) for manifest in manifests)
    total, done = sum(part.rows_kept for part in parts), 0
    with published_location(output, f"merge-{content_id(sources)}") as folder:
        for split in sorted({part.split for part in parts}):
            for rows in _write_split([part for part in parts if part.split == split], schema, folder):
                done += rows
                progress(done, total)
        write_file(join(folder, "sources.json"), json.dumps(sources, indent=2).encode())
        write_card(folder, name_of(output), licences, cloned_voices=cloned_voices)
    return Merged(total, sum(len(part.kept) for part in parts) - total)


def _common_schema(manifests: Sequence[Manifest]) -> pa.Schema:
    first = manifests[0].schema(manifests[0].shard_splits[0])
    for manifest, split in ((m, split) for m in manifests for split in m.shard_splits):
        here = manifest.schema(split)
        differing = sorted(set(first.remove_metadata()) ^ set(here.remove_metadata()), key=lambda field: field.name)
        if differing:
            raise UserError(
                f"manifests {manifests[0].location} and {manifest.location} (split {split}) differ in the columns "
                f"{', '.join(dict.fromkeys(field.name for field in differing))}; merge manifests of one kind"
            )
    return first.remove_metadata()


def _write_split(parts: Sequence[Part], schema: pa.Schema, folder: str) -> Iterator[int]:
    """Yields how many rows were written, as it goes."""
    rows = sum(part.rows_kept for part in parts)
    shards = max(1, math.ceil(sum(part.bytes_kept for part in parts) / _SHARD_BYTES))
    edges = [number * rows // shards for number in range(shards + 1)]
    batches = (batch for part in parts for batch in part.batches(schema.names))
    for number, pieces in itertools.groupby(_cut(batches, edges), key=lambda piece: piece[0]):
        location = join(folder, "data", f"{parts[0].split}-{number:05d}-of-{shards:05d}.parquet")
        yield from _write_shard(location, schema, (batch for _, batch in pieces))


def _cut(batches: Iterable[pa.RecordBatch], edges: Sequence[int]) -> Iterator[_Piece]:
    """edges: the row that each shard starts with, and the number of rows."""
    place = 0
    for batch in batches:
        while len(batch):
            shard = int(np.searchsorted(edges, place, side="right")) - 1
            piece = batch.slice(0, edges[shard + 1] - place)
            yield shard, piece
            place, batch = place + len(piece), batch.slice(len(piece))


def _write_shard(location: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    with open_output(location) as stream, pq.ParquetWriter(stream, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield len(batch)
