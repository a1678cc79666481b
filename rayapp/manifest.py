"""Reading a manifest: a folder of parquet shards of utterances, `data/<split>-00000-of-00001.parquet`.

Training, evaluation and people read it here; `pipelines.manifests` writes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import yaml

from rayapp.errors import UserError
from rayapp.records import MANIFEST_SCHEMA, PHONEMES_TYPE, short_reason
from rayapp.storage import open_filesystem, require_complete

_SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\.parquet$")
_FRONT_MATTER = re.compile(r"\ufeff?---\s*\n(.*?\n)---\s*(\n|$)", re.DOTALL)
REJECTED = "rejected"
"""The shards of rows that failed, with their reasons, are named as a split of their own."""
UNKNOWN_LICENCE = "unknown"
"""Hugging Face's name for that, too."""
ESSENTIAL_COLUMNS = ("audio", "duration_seconds", "text")
"""What a manifest of other tools must have; the other columns of `MANIFEST_SCHEMA` may be missing."""


class Manifest:
    """The utterances of a folder, by split.

    Manifests of other tools may lack columns: those that are asked for by name are then null in every row, apart
    from the `ESSENTIAL_COLUMNS`, without which `UserError` is raised.

    >>> manifest = Manifest("runs/quickstart/domain")  # doctest: +SKIP
    >>> manifest.splits  # doctest: +SKIP
    ['test', 'test_general', 'train', 'validation']
    """

    def __init__(self, location: str | Path) -> None:
        require_complete(location, "manifest")
        self._open(location)

    @classmethod
    def being_written(cls, location: str | Path) -> Self:
        """For who writes it, and reads his own shards before they are published."""
        manifest = cls.__new__(cls)
        manifest._open(location)
        return manifest

    def _open(self, location: str | Path) -> None:
        from pyarrow import fs

        self.location = location
        self.filesystem, self._path = open_filesystem(location)
        infos = self.filesystem.get_file_info(fs.FileSelector(f"{self._path}/data", allow_not_found=True))
        self._shards: dict[str, list[str]] = {}
        self._groups: dict[str, tuple[list[ds.ParquetFileFragment], np.ndarray]] = {}
        for info in sorted(infos, key=lambda info: info.path):
            if match := _SHARD.search(info.path):
                self._shards.setdefault(match["split"], []).append(info.path)

    @property
    def splits(self) -> list[str]:
        return sorted(set(self._shards) - {REJECTED})

    @property
    def shard_splits(self) -> list[str]:
        """The splits that have shards, with that of the rejected."""
        return sorted(self._shards)

    def shards(self, split: str) -> list[str]:
        """Paths within `filesystem`. Raises `UserError` for a split that is not there."""
        if split not in self._shards:
            raise UserError(
                f"manifest {self.location} has no split {split!r}; it has {', '.join(self.splits) or 'none'}"
            )
        return self._shards[split]

    def schema(self, split: str) -> pa.Schema:
        """The columns as they lie there."""
        return self._dataset(self.shards(split)).schema

    def card(self) -> dict[str, Any]:
        """What its dataset card, `README.md`, tells programs; empty where it tells nothing.

        Raises `UserError` for a card that they cannot read.
        """
        from pyarrow import fs

        path = f"{self._path}/README.md"
        if self.filesystem.get_file_info(path).type != fs.FileType.File:
            return {}
        with self.filesystem.open_input_stream(path) as stream:
            front = _FRONT_MATTER.match(stream.read().decode("utf-8", errors="replace"))
        try:
            told = yaml.safe_load(front[1]) if front else None
        except yaml.YAMLError as error:
            raise UserError(
                f"manifest {self.location} has a card that cannot be read; mend the YAML at the top of its README.md: "
                f"{error}"
            ) from None
        return told if isinstance(told, dict) else {}

    @property
    def licences(self) -> list[str]:
        """Those that its card names: one, or several where it was merged; `unknown` where it names none."""
        card = self.card()
        told = card.get("licenses") or card.get("license") or UNKNOWN_LICENCE
        return [str(licence) for licence in told] if isinstance(told, list) else [str(told)]

    def phonemes(self, split: str) -> pa.ChunkedArray:
        """Of each row, a list of `symbol` and `start_seconds`; null where nothing tells them, or the column is missing.

        Raises `UserError` for a column of that name that holds something else.
        """
        column = self.read(split, ["phonemes"])["phonemes"]
        try:
            return column.cast(PHONEMES_TYPE)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            raise UserError(
                f"manifest {self.location} has phonemes of type {column.type} in split {split}; {PHONEMES_TYPE} is read"
            ) from None

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a split; without `audio` among the columns this is cheap."""
        return self._dataset(self.shards(split), columns).to_table()

    def batches(
        self, split: str, columns: Sequence[str] | None = None, batch_size: int = 64
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a split, a few at a time: for audio that need not fit into memory."""
        for shard in self.shards(split):  # one dataset each: a dataset keeps the footers of all that it has read
            yield from self._dataset([shard], columns).to_batches(
                batch_size=batch_size, batch_readahead=2, fragment_readahead=1
            )

    def take(self, split: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """The rows with these numbers, in order; reads no others than their row groups."""
        schema = self._dataset(self.shards(split), columns).schema
        groups, starts = self._row_groups(split)
        numbers = np.asarray(rows, np.int64)
        owners = np.searchsorted(starts, numbers, side="right") - 1
        tables, places = [schema.empty_table()], [np.empty(0, np.int64)]
        for owner in np.unique(owners):
            places.append(np.flatnonzero(owners == owner))
            group = groups[owner].to_table(schema=schema, columns=list(columns))
            tables.append(group.take(numbers[places[-1]] - starts[owner]))
        return pa.concat_tables(tables).take(np.argsort(np.concatenate(places)))

    def count(self, split: str) -> int:
        return self._dataset(self._shards[split]).count_rows() if split in self._shards else 0

    def hours(self, split: str) -> float:
        return float(sum(self.read(split, ["duration_seconds"])["duration_seconds"].to_pylist())) / 3600

    def _row_groups(self, split: str) -> tuple[list[ds.ParquetFileFragment], np.ndarray]:
        """The row groups of a split, and the number of each one's first row."""
        if split not in self._groups:
            files = self._dataset(self.shards(split)).get_fragments()
            groups = [group for file in files for group in file.split_by_row_group()]
            rows = [group.row_groups[0].num_rows for group in groups]  # `count_rows` tells the whole file
            self._groups[split] = groups, np.cumsum([0, *rows[:-1]])
        return self._groups[split]

    def _dataset(self, shards: Sequence[str], columns: Sequence[str] | None = None) -> ds.Dataset:
        """columns: those that are missing are read as null."""
        dataset = ds.dataset(list(shards), filesystem=self.filesystem, format="parquet")
        if columns is None:
            return dataset
        there = dataset.schema
        missing = [name for name in columns if name not in there.names]
        if lacking := [name for name in missing if name in ESSENTIAL_COLUMNS]:
            raise UserError(
                f"manifest {self.location} has no {' and no '.join(lacking)} in {shards[0].rpartition('/')[2]}; "
                f"it has the columns {', '.join(there.names)}"
            )
        return dataset.replace_schema(
            pa.schema([(MANIFEST_SCHEMA if name in missing else there).field(name) for name in columns])
        )


def read_rejections(manifest: Manifest) -> dict[str, int]:
    """How many utterances were rejected, by reason, most frequent first."""
    if not manifest.count(REJECTED):
        return {}
    return dict(Counter(map(short_reason, manifest.read(REJECTED, ["reason"])["reason"].to_pylist())).most_common())
