"""From committed blocks to a manifest: one set of shards per split, a dataset card, the plan, the settings."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rayapp.audio.codec import encode_flac
from rayapp.manifest import REJECTED
from rayapp.records import MANIFEST_SCHEMA, Utterance, phoneme_rows

_ROWS_PER_GROUP = 64


def manifest_table(utterances: Sequence[Utterance]) -> pa.Table:
    """Rows of a manifest, with FLAC audio; rejected ones have no audio and a reason."""
    return pa.Table.from_pylist([_row(utterance) for utterance in utterances], schema=MANIFEST_SCHEMA)


def _row(utterance: Utterance) -> dict[str, object]:
    import json
    from dataclasses import asdict

    slot, transcript = utterance.slot, utterance.transcript
    flac = None if utterance.audio is None else encode_flac(utterance.audio)
    utterance_id = utterance.utterance_id
    return {
        "utterance_id": utterance_id,
        "audio": flac and {"bytes": flac, "path": f"{utterance_id}.flac"},
        "duration_seconds": utterance.duration_seconds,
        "text": transcript and transcript.text,
        "spoken_text": transcript and transcript.spoken,
        "terms": list(transcript.terms) if transcript else [],
        "category": slot.term and slot.term.category,
        "language": transcript and transcript.language,
        "split": slot.split,
        "style": slot.style,
        "generator": transcript and transcript.generator,
        "prompt": slot.prompt,
        "engine": slot.engine,
        "voice": slot.voice,
        "accent": slot.accent,
        "rate_wpm": slot.rate_wpm,
        "pitch": slot.pitch,
        "snr_db": slot.snr_db,
        "phonemes": phoneme_rows(utterance),
        "steps": json.dumps([asdict(step) for step in utterance.steps]),
        "seed": slot.seed,
        "transcript_id": transcript and transcript.transcript_id,
        "slot_id": slot.slot_id,
        "audio_hash": flac and hashlib.blake2b(flac, digest_size=8).hexdigest(),
        "status": utterance.status,
        "reason": utterance.reason,
    }


def gather_shards(blocks: Path, folder: Path, shard_mb: int) -> None:
    """Rewrite the blocks of a run as `data/<split>-00000-of-00001.parquet`, then delete them.

    Rows are in the order of their utterance IDs, which does not depend on who finished first.
    """
    source = ds.dataset(sorted(str(path) for path in blocks.glob("*.parquet")), schema=MANIFEST_SCHEMA)
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    splits = Counter(
        REJECTED if status == "rejected" else split
        for split, status in zip(*(source.to_table([c])[c].to_pylist() for c in ("split", "status")), strict=True)
    )
    block_bytes = sum(path.stat().st_size for path in blocks.glob("*.parquet"))
    for split, rows in splits.items():
        chosen = (ds.field("status") == "rejected") if split == REJECTED else (
            (ds.field("split") == split) & (ds.field("status") == "ok")
        )  # fmt: skip
        shards = max(1, math.ceil(block_bytes * rows / splits.total() / (shard_mb * 1e6)))
        order = source.to_table(["utterance_id"], filter=chosen)["utterance_id"].to_pylist()
        order.sort()
        for number in range(shards):
            part = order[number * rows // shards : (number + 1) * rows // shards]
            table = source.to_table(filter=chosen & ds.field("utterance_id").isin(part)).sort_by("utterance_id")
            name = f"{split}-{number:05d}-of-{shards:05d}.parquet"
            pq.write_table(table, data / name, row_group_size=_ROWS_PER_GROUP)
    shutil.rmtree(blocks)


def write_card(folder: Path, name: str) -> None:
    """A README that says what is in the folder, with the metadata that Hugging Face reads."""
    shards = sorted((folder / "data").glob("*.parquet"))
    meta = ds.dataset([str(s) for s in shards], schema=MANIFEST_SCHEMA).to_table(
        ["split", "duration_seconds", "voice", "accent", "status"]
    ).to_pandas()  # fmt: skip
    spoken = meta[meta.status == "ok"]
    by_split = spoken.groupby("split").agg(
        utterances=("voice", "size"), hours=("duration_seconds", lambda s: s.sum() / 3600), voices=("voice", "nunique"),
        accents=("accent", "nunique"),
    )  # fmt: skip
    lines = [
        f"| {s} | {int(r.utterances)} | {r.hours:.2f} | {int(r.voices)} | {int(r.accents)} |"
        for s, r in by_split.iterrows()
    ]
    configs = "\n".join(f"      - split: {s}\n        path: data/{s}-*.parquet" for s in by_split.index)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n  - config_name: default\n    data_files:\n{configs}\n"
        "language: [en]\ntask_categories: [automatic-speech-recognition]\ntags: [synthetic]\n---\n\n"
        f"# {name}\n\nSynthetic speech made by rayapp: no human voice, no patient data. 16 kHz mono FLAC.\n"
        f"`config.json` has the settings, `plan.parquet` the plan; {int((meta.status != 'ok').sum())} "
        "utterances were rejected (`data/rejected-*`, with reasons).\n\n"
        "| split | utterances | hours | voices | accents |\n| --- | --- | --- | --- | --- |\n" + "\n".join(lines) + "\n"
    )
