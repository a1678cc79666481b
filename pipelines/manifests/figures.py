"""What a manifest holds, counted: for its dataset card and for `rayapp manifest stats`."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.manifest import REJECTED, Manifest
from rayapp.records import Quality, short_reason

SNR_BAND_DB = 5
_GROUPINGS = ("split", "language", "category", "accent", "snr", "style", "generator", "engine")
_QUALITY = tuple(figure.name for figure in dataclasses.fields(Quality) if figure.name != "heard")
_TOLD = tuple(name for name in _GROUPINGS if name not in ("split", "snr"))
"""The groupings that are columns."""
_COLUMNS = ("duration_seconds", *_TOLD, "voice", "snr_db", "steps", *_QUALITY)
_ROWS = 8192


@dataclass
class Tally:
    """Some of the utterances of a manifest."""

    utterances: int = 0
    seconds: float = 0.0


@dataclass
class Mean:
    """Of a quality figure, over the utterances that have it."""

    utterances: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / max(self.utterances, 1)


@dataclass
class Figures:
    """What a manifest holds. Names of a grouping that a row does not tell are `none`."""

    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    """By grouping, see `_GROUPINGS`, then by name."""
    voices: dict[str, set[str]] = field(default_factory=dict)
    """By accent."""
    steps: Counter[str] = field(default_factory=Counter)
    """How many utterances each transform was applied to, by name and version: `noise v1`."""
    licences: dict[str, Counter[str]] = field(default_factory=dict)
    """How many utterances have a recording in them, by the transform that took it, then by the recording's licence."""
    quality: dict[str, Mean] = field(default_factory=dict)
    """By figure; those that no row has are left out."""
    rejections: Counter[str] = field(default_factory=Counter)
    """By reason, without its figures."""

    @property
    def utterances(self) -> int:
        return sum(tally.utterances for tally in self.tallies.get("split", {}).values())

    @property
    def seconds(self) -> float:
        return sum(tally.seconds for tally in self.tallies.get("split", {}).values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "utterances": self.utterances,
            "seconds": self.seconds,
            **{f"by_{name}": {k: vars(tally) for k, tally in each.items()} for name, each in self.tallies.items()},
            "voices_by_accent": {accent: sorted(voices) for accent, voices in self.voices.items()},
            "steps": dict(self.steps),
            "licences_by_step": {step: dict(licences) for step, licences in self.licences.items()},
            "quality": {
                name: {"utterances": mean.utterances, "mean": mean.mean} for name, mean in self.quality.items()
            },
            "rejections": dict(self.rejections.most_common()),
        }


def measure(manifest: Manifest) -> Figures:
    """Count what a manifest holds, from its metadata alone and a few thousand rows at a time."""
    figures = Figures()
    for split in manifest.splits:
        for batch in manifest.batches(split, _COLUMNS, _ROWS):
            _add(figures, split, batch)
    if manifest.count(REJECTED):
        for batch in manifest.batches(REJECTED, ["duration_seconds", "reason"], _ROWS):
            figures.rejections.update(short_reason(reason or "none") for reason in batch["reason"].to_pylist())
    figures.tallies = {name: dict(sorted(each.items(), key=_order)) for name, each in figures.tallies.items()}
    return figures


def snr_band(snr_db: float) -> str:
    """
    >>> snr_band(12.5)
    '10 to 15 dB'
    """
    low = int(snr_db // SNR_BAND_DB) * SNR_BAND_DB
    return f"{low} to {low + SNR_BAND_DB} dB"


def _order(entry: tuple[str, Tally]) -> tuple[float, str]:
    """Bands by their level, other names by the alphabet."""
    first = entry[0].partition(" to ")[0]
    return (float(first) if entry[0].endswith(" dB") else 0.0, entry[0])


def _add(figures: Figures, split: str, batch: pa.RecordBatch) -> None:
    seconds = batch["duration_seconds"]
    bands = [None if snr is None else snr_band(snr) for snr in batch["snr_db"].to_pylist()]
    names = {"split": pa.array([split] * len(batch)), "snr": pa.array(bands, pa.string())}
    names |= {name: batch[name] for name in _TOLD}
    for grouping in _GROUPINGS:
        _count(figures.tallies.setdefault(grouping, {}), names[grouping], seconds)
    accents, voices = (_named(batch[name]).to_pylist() for name in ("accent", "voice"))
    for accent, voice in set(zip(accents, voices, strict=True)):
        figures.voices.setdefault(accent, set()).add(voice)
    for step in (step for steps in batch["steps"].to_pylist() for step in json.loads(steps or "[]")):
        figures.steps[f"{step['name']} v{step['version']}"] += 1
        if licence := step.get("params", {}).get("licence"):
            figures.licences.setdefault(step["name"], Counter())[str(licence)] += 1
    for name in _QUALITY:
        if told := pc.count(batch[name]).as_py():
            mean = figures.quality.setdefault(name, Mean())
            mean.utterances += told
            mean.total += pc.sum(batch[name]).as_py()


def _count(tallies: dict[str, Tally], names: pa.Array, seconds: pa.Array) -> None:
    whole = pc.CountOptions(mode="all")
    grouped = pa.table({"name": _named(names), "seconds": seconds}).group_by("name")
    for row in grouped.aggregate([("seconds", "sum"), ("seconds", "count", whole)]).to_pylist():
        tally = tallies.setdefault(row["name"], Tally())
        tally.utterances += row["seconds_count"]
        tally.seconds += row["seconds_sum"] or 0.0


def _named(values: pa.Array) -> pa.Array:
    return pc.fill_null(values.cast(pa.string()), "none")
