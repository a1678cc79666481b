"""Some rows of a manifest, for people who want to see what it is like."""

from __future__ import annotations

from typing import Any

from rayapp.manifest import Manifest

SHOWN = ("utterance_id", "duration_seconds", "voice", "snr_db", "text")


def some_rows(manifest: Manifest, split: str | None, count: int) -> list[dict[str, Any]]:
    """The first rows of a split, or of all splits in turn: their `SHOWN` columns, and `split`."""
    splits = [split] if split else manifest.splits
    rows = []
    for number, name in enumerate(splits):
        share = (count + len(splits) - 1 - number) // len(splits)
        manifest.shards(name)
        first = manifest.take(name, range(min(share, manifest.count(name))), SHOWN).to_pylist()
        rows += [row | {"split": name} for row in first]
    return rows
