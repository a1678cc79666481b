"""Manifests as NeMo reads them: JSON lines beside FLAC files, or tarred shards."""

from __future__ import annotations

import io
import json
import math
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from pipelines.manifests.export import ROWS_PER_SHARD, Exported, Source


def export_nemo(source: Source, output: Path) -> None:
    """Write `audio/*.flac` and a `<split>.json` for each split.

    Paths of audio are relative to the folder, as NeMo resolves them; so the folder can be moved.
    """
    with source.publish(output) as folder:
        (folder / "audio").mkdir()
        for split in source.rows:
            with (folder / f"{split}.json").open("w", encoding="utf-8") as lines:
                for utterance in source.utterances(split):
                    path = f"audio/{utterance.name}.flac"
                    (folder / path).write_bytes(utterance.flac)
                    _write_line(lines, _entry(utterance, path))


def export_nemo_tar(source: Source, output: Path) -> None:
    """Write for each split `<split>/audio_0.tar`… of equal length, with one list for all and one for each of them.

    The list of all is `tarred_audio_manifest.json`; those of one shard, which spare readers of large sets memory,
    are `sharded_manifests/manifest_0.json`….
    """
    with source.publish(output) as folder:
        for split in source.rows:
            _write_shards(source, split, folder / split)


def _write_shards(source: Source, split: str, folder: Path) -> None:
    (folder / "sharded_manifests").mkdir(parents=True)
    rows, utterances = source.rows[split], source.utterances(split)
    shards = math.ceil(rows / ROWS_PER_SHARD)
    with (folder / "tarred_audio_manifest.json").open("w", encoding="utf-8") as whole:
        for shard in range(shards):
            with ExitStack() as files:
                tar = files.enter_context(tarfile.open(folder / f"audio_{shard}.tar", "w"))
                path = folder / "sharded_manifests" / f"manifest_{shard}.json"
                lines = files.enter_context(path.open("w", encoding="utf-8"))
                for _ in range(shard * rows // shards, (shard + 1) * rows // shards):
                    utterance = next(utterances)
                    entry = _entry(utterance, f"{utterance.name}.flac") | {"shard_id": shard}
                    _add_file(tar, entry["audio_filepath"], utterance.flac)
                    _write_line(whole, entry)
                    _write_line(lines, entry)


def _entry(utterance: Exported, path: str) -> dict[str, Any]:
    """A line of NeMo's: `lang` is its name of the language, and the sampling rate spares it to open the file."""
    language = utterance.row["language"]
    return {
        "audio_filepath": path,
        "duration": utterance.duration_seconds,
        "text": utterance.row["text"],
        "sampling_rate": utterance.sample_rate_hz,
        **({} if language is None else {"lang": language}),
        **utterance.told,
    }


def _write_line(lines: TextIO, entry: dict[str, Any]) -> None:
    lines.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Without time or owner, so that the same rows make the same file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
