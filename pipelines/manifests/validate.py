"""`rayapp manifest validate`: does a manifest hold what it says, whoever made it?"""

from __future__ import annotations

import heapq
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.manifests.checks import check_audio, check_text
from pipelines.manifests.columns import column_problems, missing_columns
from pipelines.manifests.leaks import find_leaks
from rayapp.ids import content_share
from rayapp.manifest import Manifest

Progress = Callable[[int, int], None]
"""Called with how many utterances' audio is done, and of how many."""
_AUDIO_ROWS, _ROWS = 64, 8192
_EXAMPLES = 5
_AUDIO_COLUMNS = ("utterance_id", "audio", "duration_seconds", "audio_hash")


@dataclass
class Findings:
    """What is wrong with a manifest, by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first few of each kind."""
    missing_columns: list[str] = field(default_factory=list)
    """Columns of ours that it does not have: no fault, but what they tell cannot be checked."""
    decoded: int = 0
    """Utterances whose audio was decoded."""

    def add(self, kind: str, where: str, what: str) -> None:
        self.counts[kind] += 1
        if len(examples := self.examples.setdefault(kind, [])) < _EXAMPLES:
            examples.append(f"{where}: {what}")


def validate(manifest: Manifest, sample: int | None = None, progress: Progress = lambda done, total: None) -> Findings:
    """Check a manifest, a few rows at a time.

    sample: decode the audio of so many utterances only, drawn by hash of their IDs; without it, of all.

    The kinds of problems: `shards`, `schema` (the others are then not looked for), `utterance_id`, `text`, `terms`,
    `split`, `status`, `leak` (a sentence on several of the sides training, validation and test), `audio`,
    `audio_hash`, `duration`.
    """
    findings = Findings()
    _check_layout(manifest, findings)
    if findings.counts["schema"]:
        return findings
    _check_ids(manifest, findings)
    _check_rows(manifest, findings)
    for text, splits in find_leaks(manifest).items():
        findings.add("leak", " and ".join(splits), repr(text))
    _check_audio(manifest, findings, sample, progress)
    return findings


def _check_layout(manifest: Manifest, findings: Findings) -> None:
    if not manifest.splits:
        findings.add("shards", "data", "no shards of utterances")
    for split in manifest.splits:
        promised = {int(number) for path in manifest.shards(split) for number in re.findall(r"-of-(\d+)", path)}
        there = len(manifest.shards(split))
        if promised != {there}:
            findings.add("shards", split, f"{there} there; by their names there are {sorted(promised)}")
        for problem in column_problems(manifest.schema(split)):
            findings.add("schema", split, problem)
        findings.missing_columns = findings.missing_columns or missing_columns(manifest.schema(split))


def _check_ids(manifest: Manifest, findings: Findings) -> None:
    """IDs alone are some 20 bytes a row: those of millions fit into memory."""
    batches = (batch for split in manifest.splits for batch in manifest.batches(split, ["utterance_id"], _ROWS))
    ids = pa.chunked_array([batch["utterance_id"].cast(pa.string()) for batch in batches], pa.string())
    if ids.null_count and "utterance_id" not in findings.missing_columns:
        findings.add("utterance_id", "all splits", f"{ids.null_count} rows have none")
    counted = pa.table({"id": ids.drop_null()}).group_by("id").aggregate([([], "count_all")])
    for row in counted.filter(pc.greater(counted["count_all"], 1)).to_pylist():
        findings.add("utterance_id", row["id"], f"in {row['count_all']} rows")


def _check_rows(manifest: Manifest, findings: Findings) -> None:
    for split in manifest.splits:
        number = itertools.count()
        for batch in manifest.batches(split, ["utterance_id", "text", "terms", "split", "status"], _ROWS):
            for row in batch.to_pylist():
                where = _where(split, next(number), row["utterance_id"])
                for kind, what in check_text(row, split):
                    findings.add(kind, where, what)


def _check_audio(manifest: Manifest, findings: Findings, sample: int | None, progress: Progress) -> None:
    total = sum(manifest.count(split) for split in manifest.splits)
    total = total if sample is None else min(total, sample)
    with ThreadPoolExecutor() as pool:  # decoding lets go of the interpreter
        for split, numbers, rows in _audio(manifest) if sample is None else _sampled_audio(manifest, sample):
            problems = pool.map(lambda row: list(check_audio(row)), rows)
            for number, row, found in zip(numbers, rows, problems, strict=True):
                for kind, what in found:
                    findings.add(kind, _where(split, number, row["utterance_id"]), what)
            findings.decoded += len(rows)
            progress(findings.decoded, total)


_Rows = tuple[str, Sequence[int], list[dict[str, Any]]]
"""A few rows with audio: their split, their numbers in it, their columns."""


def _audio(manifest: Manifest) -> Iterator[_Rows]:
    for split in manifest.splits:
        first = 0
        for batch in manifest.batches(split, _AUDIO_COLUMNS, _AUDIO_ROWS):
            yield split, range(first, first + len(batch)), batch.to_pylist()
            first += len(batch)


def _sampled_audio(manifest: Manifest, sample: int) -> Iterator[_Rows]:
    drawn = heapq.nsmallest(sample, _draws(manifest))
    for split in manifest.splits:
        numbers = sorted(number for _, of, number in drawn if of == split)
        for start in range(0, len(numbers), _AUDIO_ROWS):
            some = numbers[start : start + _AUDIO_ROWS]
            yield split, some, manifest.take(split, some, _AUDIO_COLUMNS).to_pylist()


def _draws(manifest: Manifest) -> Iterator[tuple[float, str, int]]:
    """Of each utterance, a number by which the sample is drawn, its split and its number in it."""
    for split in manifest.splits:
        number = itertools.count()
        for batch in manifest.batches(split, ["utterance_id"], _ROWS):
            for utterance_id in batch["utterance_id"].to_pylist():
                row = next(number)
                yield content_share("sample", utterance_id or [split, row]), split, row


def _where(split: str, number: int, utterance_id: str | None) -> str:
    return f"{split} row {number}" + (f" ({utterance_id})" if utterance_id else "")
