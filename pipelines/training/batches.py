"""Which utterances make up which batch: planned from the manifests' metadata, alike on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from pipelines.training.config import SourceConfig
from rayapp.asr.phonemes import UNKNOWN, phoneme_slices
from rayapp.asr.recogniser import Recogniser
from rayapp.audio.codec import decode
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.records import Audio

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LENGTH_JITTER = 0.1
"""Durations are blurred by this share before sorting, so that batches differ between epochs."""


class Batch(NamedTuple):
    """features: (batch, frames, mels) float16. tokens: (batch, labels) int64. Lengths: (batch,) int64.
    phoneme_slices: (batch, slices) int64, see `rayapp.asr.phonemes`; (batch, 0) where they are not learnt."""

    features: torch.Tensor
    feature_lengths: torch.Tensor
    tokens: torch.Tensor
    token_lengths: torch.Tensor
    phoneme_slices: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device) for tensor in self))


@dataclass
class Corpus:
    """The utterances of several sources: FLAC in memory, and the features of what training has used.

    Features are kept: they are half as large as the audio, and cost a tenth of a step on the CPU.
    """

    flac: pa.ChunkedArray
    durations: NDArray[np.float64]
    targets: list[list[int]]
    texts: list[str]
    sources: list[tuple[NDArray[np.int64], int]]
    """Of each source: its rows, and how many of them an epoch takes."""
    recogniser: Recogniser
    phoneme_slices: list[NDArray[np.int16]] | None = None
    """Of each utterance, (slices,), see `rayapp.asr.phonemes`; None where they are not learnt."""

    def __post_init__(self) -> None:
        self._features: dict[int, torch.Tensor] = {}

    @classmethod
    def open(cls, configs: Sequence[SourceConfig], recogniser: Recogniser, symbols: Sequence[str] = ()) -> Corpus:
        """symbols: the phonemes to learn; their place is their number."""
        ids = {symbol: number for number, symbol in enumerate(symbols)}
        slices: list[NDArray[np.int16]] = []
        tables, sources, first = [], [], 0
        for config in configs:
            manifest = Manifest(config.manifest)
            table = manifest.read(config.split, ["audio", "duration_seconds", "text"])
            if not table.num_rows:
                raise UserError(f"manifest {config.manifest} has no utterances in split {config.split!r}")
            rows = np.arange(first, first + table.num_rows)
            if symbols:
                seconds = table["duration_seconds"].to_numpy()
                told = (row.as_py() for row in manifest.phonemes(config.split))  # one at a time: they are many objects
                slices += [phoneme_slices(*row, ids).astype(np.int16) for row in zip(told, seconds, strict=True)]
            sources.append((rows, min(config.utterances or len(rows), len(rows))))
            tables.append(table)
            first += table.num_rows
        whole = pa.concat_tables(tables)
        texts = whole["text"].to_pylist()
        return cls(
            flac=whole["audio"],
            durations=whole["duration_seconds"].to_numpy(),
            targets=[recogniser.tokenise(text) for text in texts],
            texts=texts,
            sources=sources,
            recogniser=recogniser,
            phoneme_slices=slices if symbols else None,
        )

    @property
    def rows_per_epoch(self) -> int:
        return sum(count for _, count in self.sources)

    def audio(self, row: int) -> Audio:
        return decode(self.flac[row]["bytes"].as_py())

    def batch(self, rows: Sequence[int]) -> Batch:
        pad = torch.nn.utils.rnn.pad_sequence
        for row in rows:
            if row not in self._features:
                self._features[row] = self.recogniser.features(self.audio(row))
        features = [self._features[row] for row in rows]
        tokens = [torch.tensor(self.targets[row], dtype=torch.int64) for row in rows]
        slices = [
            torch.tensor(self.phoneme_slices[row] if self.phoneme_slices else [], dtype=torch.int64) for row in rows
        ]
        return Batch(
            pad(features, batch_first=True),
            torch.tensor([len(f) for f in features]),
            pad(tokens, batch_first=True),
            torch.tensor([len(t) for t in tokens]),
            pad(slices, batch_first=True, padding_value=UNKNOWN),
        )


def plan_epoch(
    corpus: Corpus, epoch: int, batch_size: int, ranks: int, seed: int, *, shortest_first: bool = False
) -> list[NDArray[np.int64]]:
    """Rows of each step, (ranks, batch_size): alike lengths stand together, steps come in random order.

    shortest_first: the steps come in order of length instead. A new model finds out sooner from short
        sentences which sound belongs to which letter (SortaGrad, https://arxiv.org/abs/1512.02595).

    Every rank makes the same plan and takes its own line of it. So that no rank runs dry, the last
    step is filled up with rows drawn once more.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = np.concatenate([rng.permutation(rows)[:count] for rows, count in corpus.sources])
    per_step = batch_size * ranks
    missing = -len(rows) % per_step
    if missing:
        rows = np.concatenate([rows, rng.choice(rows, missing)])
    blurred = corpus.durations[rows] * rng.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER, len(rows))
    steps = rows[np.argsort(blurred)].reshape(-1, per_step)
    # Deal a step's rows out in turn, so that the ranks' batches are equally long.
    return [step.reshape(batch_size, ranks).T for step in (steps if shortest_first else rng.permutation(steps))]


def scoring_batches(corpus: Corpus, rank: int, ranks: int, batch_size: int = 32) -> Iterator[list[int]]:
    """Every row exactly once over all ranks, alike lengths together."""
    mine = np.argsort(corpus.durations)[rank::ranks]
    for start in range(0, len(mine), batch_size):
        yield mine[start : start + batch_size].tolist()
