"""Reading a manifest: a folder of parquet shards of utterances, `data/<split>-00000-of-00001.parquet`.

Training, evaluation and people read it here; `pipelines.manifests` writes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from rayapp.errors import UserError
from rayapp.records import PHONEMES_TYPE
from rayapp.storage import open_filesystem, require_complete

_SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\.parquet$")
REJECTED = "rejected"
"""The shards of rows that failed, with their reasons, are named as a split of their own."""


class Manifest:
    """The utterances of a folder, by split.

    >>> manifest = Manifest("runs/quickstart/domain")  # doctest: +SKIP
    >>> manifest.splits  # doctest: +SKIP
    ['test', 'test_general', 'train', 'validation']
    """

    def __init__(self, location: str | Path) -> None:
        require_complete(location, "manifest")
        self.location = location
        self.filesystem, self._path = open_filesystem(location)
        from pyarrow import fs

        infos = self.filesystem.get_file_info(fs.FileSelector(f"{self._path}/data"))
        self._shards: dict[str, list[str]] = {}
        for info in sorted(infos, key=lambda info: info.path):
            if match := _SHARD.search(info.path):
                self._shards.setdefault(match["split"], []).append(info.path)

    @property
    def splits(self) -> list[str]:
        return sorted(set(self._shards) - {REJECTED})

    def shards(self, split: str) -> list[str]:
        """Paths within `filesystem`. Raises `UserError` for a split that is not there."""
        if split not in self._shards:
            raise UserError(
                f"manifest {self.location} has no split {split!r}; it has {', '.join(self.splits) or 'none'}"
            )
        return self._shards[split]

    def phonemes(self, split: str) -> pa.ChunkedArray:
        """Of each row, a list of `symbol` and `start_seconds`; null where nothing tells them, or the column is missing.

        Raises `UserError` for a column of that name that holds something else.
        """
        dataset = self._dataset(split)
        if "phonemes" not in dataset.schema.names:
            return pa.chunked_array([pa.nulls(dataset.count_rows(), PHONEMES_TYPE)])
        column = dataset.to_table(columns=["phonemes"])["phonemes"]
        try:
            return column.cast(PHONEMES_TYPE)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            raise UserError(
                f"manifest {self.location} has phonemes of type {column.type} in split {split}; {PHONEMES_TYPE} is read"
            ) from None

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a split; without `audio` among the columns this is cheap."""
        return self._dataset(split).to_table(columns=list(columns) if columns else None)

    def batches(
        self, split: str, columns: Sequence[str] | None = None, batch_size: int = 64
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a split, a few at a time: for audio that need not fit into memory."""
        yield from self._dataset(split).to_batches(
            columns=list(columns) if columns else None, batch_size=batch_size, batch_readahead=2, fragment_readahead=1
        )

    def take(self, split: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """The rows with these numbers, in order; reads no others than their row groups."""
        return self._dataset(split).take(list(rows), columns=list(columns))

    def count(self, split: str) -> int:
        return self._dataset(split).count_rows() if split in self._shards else 0

    def hours(self, split: str) -> float:
        return float(sum(self.read(split, ["duration_seconds"])["duration_seconds"].to_pylist())) / 3600

    def _dataset(self, split: str) -> ds.Dataset:
        return ds.dataset(self.shards(split), filesystem=self.filesystem, format="parquet")


def read_rejections(manifest: Manifest) -> dict[str, int]:
    """How many utterances were rejected, by reason, most frequent first."""
    if not manifest.count(REJECTED):
        return {}
    return dict(Counter(manifest.read(REJECTED, ["reason"])["reason"].to_pylist()).most_common())
