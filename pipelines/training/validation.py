"""How well a model hears the validation manifests, measured by all ranks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from pipelines.training.config import SourceConfig
from rayapp.asr.batching import transcribe_all
from rayapp.asr.recogniser import Recogniser
from rayapp.asr.scoring import METRICS, Counts, count_errors
from rayapp.audio.codec import decode
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.storage import name_of

_SAMPLES = 5
"""Utterances of each manifest that are shown."""


class Validated(NamedTuple):
    """What was measured; the samples are rank 0's."""

    figures: dict[str, float]
    samples: str


@dataclass(frozen=True)
class _Split:
    """A rank's share of a validation manifest."""

    name: str
    flac: list[bytes]
    texts: list[str]
    terms: list[list[str]]


class ValidationSet:
    """A rank's share of the validation manifests, as FLAC in memory."""

    def __init__(self, sources: Sequence[SourceConfig], rank: int, ranks: int) -> None:
        names = _distinct([f"{name_of(source.manifest)}.{source.split}" for source in sources])
        self._splits = [_share(name, source, rank, ranks) for name, source in zip(names, sources, strict=True)]

    def __bool__(self) -> bool:
        return bool(self._splits)

    def measure(self, recogniser: Recogniser, device: torch.device) -> Validated:
        """`validation_wer`, `validation_cer` and `validation_term_recall` over all manifests, and of each where there
        are several. Every rank calls this; each hears its share."""
        totals, samples = [], []
        for split in self._splits:
            heard = [h.text for h in transcribe_all(recogniser, list(map(decode, split.flac)))]
            counts = count_errors(split.texts, heard, split.terms)
            totals.append(_totals(counts))
            shown = zip(split.texts[:_SAMPLES], heard, strict=False)
            samples += [f"{split.name}\n  said:  {said}\n  heard: {told}" for said, told in shown]
        if not totals:
            return Validated({}, "")
        counted = torch.tensor(np.array(totals), dtype=torch.float64, device=device)
        dist.all_reduce(counted)
        figures = _ratios(counted.sum(0), "")
        if len(self._splits) > 1:
            for split, row in zip(self._splits, counted, strict=True):
                figures |= _ratios(row, f"/{split.name}")
        return Validated(figures, "\n".join(samples))


def _distinct(names: Sequence[str]) -> list[str]:
    """
    >>> _distinct(["speech.test", "speech.test", "other.test"])
    ['speech.test', 'speech.test.2', 'other.test']
    """
    before = [names[:number].count(name) for number, name in enumerate(names)]
    return [f"{name}.{count + 1}" if count else name for name, count in zip(names, before, strict=True)]


def _share(name: str, source: SourceConfig, rank: int, ranks: int) -> _Split:
    table = Manifest(source.manifest).read(source.split, ["utterance_id", "audio", "text", "terms", "duration_seconds"])
    mine = table.take(np.argsort(table["duration_seconds"].to_numpy())[rank::ranks])
    _require_readable(source, mine)
    return _Split(
        name,
        [row["bytes"] for row in mine["audio"].to_pylist()],
        mine["text"].to_pylist(),
        [terms or [] for terms in mine["terms"].to_pylist()],
    )


def _require_readable(source: SourceConfig, utterances: pa.Table) -> None:
    """Raises `UserError` before anything is learnt: a figure must not depend on what can be read."""
    for row in utterances.select(["utterance_id", "audio"]).to_pylist():
        try:
            decode((row["audio"] or {}).get("bytes") or b"", name=f"the audio of {row['utterance_id']}")
        except UserError as error:
            raise UserError(
                f"manifest {source.manifest}, split {source.split!r}: {error}; `rayapp manifest validate` lists all "
                "such rows"
            ) from None


def _totals(counts: Counts) -> list[int]:
    return [int(part.sum()) for metric in METRICS for part in counts.of(metric)]


def _ratios(totals: torch.Tensor, suffix: str) -> dict[str, float]:
    pairs = zip(METRICS, totals.view(-1, 2).tolist(), strict=True)
    return {f"validation_{metric}{suffix}": part / whole for metric, (part, whole) in pairs if whole}
