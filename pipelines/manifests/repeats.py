"""Which rows of several manifests are the same utterance, told from their metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.manifest import REJECTED, Manifest

_CONTENT = ("text", "split", "duration_seconds", "audio_hash")
"""What two rows of one utterance must agree in."""
_ROWS = 8192
_EXAMPLES = 5


@dataclass(frozen=True)
class Part:
    """The rows of one split of one manifest."""

    manifest: Manifest
    split: str
    kept: NDArray[np.bool_]
    """Of each row, whether it is the first of its utterance."""

    @property
    def rows_kept(self) -> int:
        return int(self.kept.sum())

    @property
    def bytes_kept(self) -> float:
        """About, on disk."""
        infos = self.manifest.filesystem.get_file_info(self.manifest.shards(self.split))
        return sum(info.size for info in infos) * float(self.kept.mean()) if len(self.kept) else 0.0

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows that are kept, a few at a time."""
        first = 0
        for batch in self.manifest.batches(self.split, columns):
            yield batch.filter(pa.array(self.kept[first : first + len(batch)]))
            first += len(batch)


def find_kept(manifests: Sequence[Manifest]) -> list[Part]:
    """The parts of all manifests, in order, with the rows that are kept marked.

    Holds some 50 bytes a row. Raises `UserError` for rows that have the same ID and differ, or have none.
    """
    parts = [(manifest, split) for manifest in manifests for split in manifest.shard_splits]
    tables = [_identities(manifest, split) for manifest, split in parts]
    rows = pa.concat_tables(tables)
    rows = rows.append_column("place", pa.array(np.arange(rows.num_rows)))
    spoken = _first_of_each(rows.filter(pc.invert(rows["rejected"])))
    conflicts = spoken.filter(pc.greater(spoken["content_count_distinct"], 1))["utterance_id"].to_pylist()
    if conflicts:
        raise UserError(
            f"{len(conflicts)} utterance_ids are there with different text, split, duration or audio: "
            f"{', '.join(sorted(conflicts)[:_EXAMPLES])}{', …' * (len(conflicts) > _EXAMPLES)}; "
            "`rayapp manifest diff` shows where two manifests differ"
        )
    made = pc.is_in(rows["utterance_id"], value_set=spoken["utterance_id"])
    rejected = _first_of_each(rows.filter(pc.and_(rows["rejected"], pc.invert(made))))
    kept = np.zeros(rows.num_rows, bool)
    kept[np.concatenate([spoken["place_min"], rejected["place_min"]])] = True
    ends = np.cumsum([table.num_rows for table in tables])
    return [Part(*part, mask) for part, mask in zip(parts, np.split(kept, ends[:-1]), strict=True)]


def _identities(manifest: Manifest, split: str) -> pa.Table:
    ids, contents = [], []
    for batch in manifest.batches(split, ["utterance_id", *_CONTENT], _ROWS):
        for utterance_id, *content in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if utterance_id is None:
                raise UserError(
                    f"manifest {manifest.location} has rows without utterance_id in split {split}: whether they are "
                    "the same as others cannot be told"
                )
            ids.append(utterance_id)
            contents.append(content_id(*content))
    return pa.table(
        {
            "utterance_id": pa.array(ids, pa.string()),
            "content": pa.array(contents, pa.string()),
            "rejected": pa.array([split == REJECTED] * len(ids), pa.bool_()),
        }
    )


def _first_of_each(rows: pa.Table) -> pa.Table:
    return rows.group_by("utterance_id").aggregate([("place", "min"), ("content", "count_distinct")])
