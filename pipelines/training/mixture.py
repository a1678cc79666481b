"""Which utterances an epoch learns from: those of several manifests, each with its share.

Only metadata is read here: how long each utterance lasts, and in which row group of which shard it lies.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayapp.errors import UserError
from rayapp.manifest import ESSENTIAL_COLUMNS, Manifest
from rayapp.records import MANIFEST_SCHEMA
from rayapp.storage import open_filesystem

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHARDS_AT_ONCE = 16
"""Footers that are read at the same time: an object store takes its time for each."""
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Source:
    """A split of a manifest, and how much of an epoch comes from it.

    Raises `UserError` where `share` is given with `utterances` or `weight`: it says already how many.
    """

    manifest: str | Path
    split: str = "train"
    utterances: int | None = None
    """So many in each epoch, drawn anew each time; without it, all."""
    weight: float = 1.0
    """How often its utterances are taken, relative to those of the other sources."""
    share: float | None = None
    """Of all utterances of an epoch, in place of its own size: 0.1 replays a tenth of other speech."""

    def __post_init__(self) -> None:
        if self.share is not None and (self.utterances is not None or self.weight != 1):
            raise UserError(
                f"source {self.manifest} has share {self.share:g} beside utterances or weight; the share says already "
                "how many are taken: leave out the others"
            )


class SetAside(NamedTuple):
    """An utterance that cannot be learnt from."""

    utterance_id: str
    reason: str


class Shard(NamedTuple):
    """A parquet file of a manifest."""

    manifest: str
    path: str
    """Within the manifest's filesystem."""


@dataclass(frozen=True)
class Mixture:
    """The utterances of several sources, numbered through, and how many of each source an epoch takes.

    Small enough to travel: 12 bytes an utterance, and some for each shard and row group.
    """

    shards: tuple[Shard, ...]
    group_shards: NDArray[np.int32]
    """(row groups,): the shard of each."""
    group_starts: NDArray[np.int64]
    """(row groups + 1,): the number of each one's first utterance."""
    seconds: NDArray[np.float32]
    """(utterances,)."""
    rows: tuple[NDArray[np.int64], ...]
    """Of each source, the utterances that can be learnt from."""
    counts: tuple[int, ...]
    """Of each source, how many an epoch takes."""
    set_aside: tuple[SetAside, ...] = ()

    @classmethod
    def open(cls, sources: Sequence[Source], *, temperature: float = 1.0, max_seconds: float = math.inf) -> Self:
        """Read the metadata of the sources.

        temperature: an epoch takes from each source in proportion to weight · size^(1 / temperature), in all as many
            as the sources have together (or ask for as `utterances`): above 1, small ones are taken more often. Those
            that ask for a `share` come on top. An utterance is taken again only once all of its source were.
        max_seconds: longer utterances are set aside.

        Raises `UserError` for a manifest without such a split or without utterances in it, for a shard that cannot be
        read, and for shares that leave no room.
        """
        splits = [_read_split(Manifest(source.manifest), source.split) for source in sources]
        shards = [shard for split in splits for shard in split.shards]
        groups = [sizes for split in splits for sizes in split.groups]
        seconds = np.concatenate([split.seconds for split in splits])
        usable = (seconds > 0) & (seconds <= max_seconds)
        edges = np.cumsum([0, *(len(split.seconds) for split in splits)])
        rows = tuple(start + np.flatnonzero(usable[start:stop]) for start, stop in pairwise(edges.tolist()))
        for source, mine in zip(sources, rows, strict=True):
            if not len(mine):
                limit = f" of at most {max_seconds:g} s" if math.isfinite(max_seconds) else ""
                raise UserError(f"manifest {source.manifest} has no utterances{limit} in split {source.split!r}")
        mixture = cls(
            shards=tuple(shards),
            group_shards=np.repeat(np.arange(len(shards), dtype=np.int32), [len(sizes) for sizes in groups]),
            group_starts=np.cumsum([0, *(size for sizes in groups for size in sizes)]),
            seconds=seconds.astype(np.float32),
            rows=rows,
            counts=_counts(sources, [len(mine) for mine in rows], temperature),
        )
        return dataclasses.replace(mixture, set_aside=_set_aside(mixture, np.flatnonzero(~usable), max_seconds))

    @property
    def utterances_per_epoch(self) -> int:
        return sum(self.counts)

    @property
    def hours_per_epoch(self) -> float:
        """On average, where an epoch takes some of a source's utterances."""
        means = [float(self.seconds[mine].mean()) for mine in self.rows]
        return float(np.dot(means, self.counts)) / 3600

    def epoch_rows(self, epoch: int, seed: int) -> NDArray[np.int64]:
        """The numbers of the utterances that an epoch takes; more than once where a source gives more than it has."""
        taken = []
        for number, (mine, count) in enumerate(zip(self.rows, self.counts, strict=True)):
            times, rest = divmod(count, len(mine))
            rng = np.random.default_rng([1, seed, epoch, number])
            taken += [mine] * times + [rng.permutation(mine)[:rest]]
        return np.concatenate(taken)

    def groups_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row group of each utterance."""
        return np.searchsorted(self.group_starts, rows, side="right") - 1

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """These utterances, a few at a time, with their numbers, as `MANIFEST_SCHEMA` has the columns; null where a
        manifest lacks one. They come in the order in which they lie; no other row groups are read, and each once.

        Raises `UserError` for a shard that cannot be read.
        """
        schema = pa.schema([MANIFEST_SCHEMA.field(name) for name in columns])
        wanted = np.unique(rows)
        groups = np.unique(self.groups_of(wanted))
        for shard in np.unique(self.group_shards[groups]):
            mine = groups[self.group_shards[groups] == shard]
            numbers = np.concatenate([np.arange(*self.group_starts[group : group + 2]) for group in mine])
            first = np.searchsorted(self.group_shards, shard)
            for table in _read_groups(self.shards[shard], (mine - first).tolist(), schema):
                here, numbers = numbers[: table.num_rows], numbers[table.num_rows :]
                places = np.flatnonzero(np.isin(here, wanted))
                yield here[places], table.take(places)

    def utterance_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Of each; where other tools gave none, its place."""
        told: dict[int, str | None] = {}
        for numbers, table in self.read(rows, ["utterance_id"]):
            told.update(zip(numbers.tolist(), table["utterance_id"].to_pylist(), strict=True))
        return [told[row] or self.place(row) for row in rows.tolist()]

    def place(self, row: int) -> str:
        """The name of an utterance that has no ID, such as `train-00000-of-00001.parquet:7`."""
        group = self.groups_of(np.array([row]))
        shard = int(self.group_shards[group][0])
        first = self.group_starts[np.searchsorted(self.group_shards, shard)]
        return f"{self.shards[shard].path.rpartition('/')[2]}:{row - first}"


def read_texts(shard: Shard) -> list[str]:
    """What is said in all of its utterances. Raises `UserError` where it cannot be read."""
    with _open(shard) as file:
        return [text or "" for text in file.read(["text"])["text"].to_pylist()]


def _set_aside(mixture: Mixture, rows: NDArray[np.int64], max_seconds: float) -> tuple[SetAside, ...]:
    """rows: those that last too long, or no time."""
    reasons = [
        f"it lasts {seconds:.1f} s; {max_seconds:g} s is the most" if seconds > 0 else "its manifest tells no duration"
        for seconds in mixture.seconds[rows].tolist()
    ]
    return tuple(map(SetAside, mixture.utterance_ids(rows), reasons))


class _Split(NamedTuple):
    """The metadata of a source."""

    shards: list[Shard]
    groups: list[list[int]]
    """Of each shard, the rows of its row groups."""
    seconds: NDArray[np.float64]


def _read_split(manifest: Manifest, split: str) -> _Split:
    shards = [Shard(str(manifest.location), path) for path in manifest.shards(split)]
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        read = list(pool.map(_read_metadata, shards))
    return _Split(shards, [groups for groups, _ in read], np.concatenate([seconds for _, seconds in read]))


def _read_metadata(shard: Shard) -> tuple[list[int], NDArray[np.float64]]:
    """How many rows its row groups have, and how long each row lasts: 0 where that is not told."""
    with _open(shard) as file:
        missing = [name for name in ESSENTIAL_COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise UserError(
                f"manifest {shard.manifest} has no {' and no '.join(missing)} in {shard.path}; it has the columns "
                f"{', '.join(file.schema_arrow.names)}"
            )
        seconds = file.read(["duration_seconds"])["duration_seconds"].cast(pa.float64())
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return groups, np.nan_to_num(pc.fill_null(seconds, 0.0).to_numpy())


def _read_groups(shard: Shard, groups: Sequence[int], schema: pa.Schema) -> Iterator[pa.Table]:
    with _open(shard) as file:
        there = [name for name in schema.names if name in file.schema_arrow.names]
        for group in groups:  # one after the other: what is buffered of several stays in memory until the last is read
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=there):
                columns = [
                    batch[field.name].cast(field.type) if field.name in there else pa.nulls(len(batch), field.type)
                    for field in schema
                ]
                yield pa.table(columns, schema=schema)


@contextmanager
def _open(shard: Shard) -> Iterator[pq.ParquetFile]:
    """What goes wrong while the file is read names it."""
    filesystem, _ = open_filesystem(shard.manifest)
    try:
        with pq.ParquetFile(shard.path, filesystem=filesystem, pre_buffer=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"shard {shard.path} of manifest {shard.manifest} cannot be read ({error}); restore it, or make the "
            "manifest again"
        ) from error


def _counts(sources: Sequence[Source], sizes: Sequence[int], temperature: float) -> tuple[int, ...]:
    """How many utterances of each source an epoch takes.

    sizes: how many each has.
    """
    fixed = np.array([source.share or 0.0 for source in sources])
    free = np.array([source.share is None for source in sources])
    if not free.any() or fixed.sum() >= 1:
        raise UserError(
            f"the sources ask for shares of {', '.join(f'{share:g}' for share in fixed[~free])} of an epoch; they must "
            "leave room for at least one source without a share, whose utterances say how long an epoch is"
        )
    own = np.array([min(source.utterances or size, size) for source, size in zip(sources, sizes, strict=True)])
    wanted = free * np.array([source.weight for source in sources]) * own ** (1 / temperature)
    total = round(own[free].sum() / (1 - fixed.sum()))
    return _rounded((wanted / wanted.sum() * (1 - fixed.sum()) + fixed) * total)


def _rounded(counts: NDArray[np.float64]) -> tuple[int, ...]:
    """To whole numbers of the same sum, each up or down."""
    whole = np.floor(counts + 1e-9).astype(int)
    missing = round(counts.sum()) - whole.sum()
    whole[np.argsort(whole - counts, kind="stable")[:missing]] += 1
    return tuple(whole.tolist())
