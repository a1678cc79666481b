"""Transcripts as files, each whole or absent."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipelines.transcription.config import Format
from pipelines.transcription.listen import Transcript
from pipelines.transcription.recordings import SUFFIXES, Recording
from rayapp.asr.subtitles import as_srt, as_vtt
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.shards import read_shards
from rayapp.storage import list_files, open_filesystem, write_file

_SUFFIXES: dict[Format, str] = {"jsonl": ".jsonl", "parquet": ".parquet", "text": ".txt", "srt": ".srt", "vtt": ".vtt"}
_SHARD = "transcripts-"
_WORD = pa.struct([("word", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("confidence", pa.float64())])
_SCHEMA = pa.schema(
    [("name", pa.string()), ("text", pa.string()), ("seconds", pa.float64()), ("words", pa.list_(_WORD))]
)


def write_transcripts(
    transcripts: Sequence[Transcript], recordings: Sequence[Recording], output: str, kind: Format
) -> None:
    """kind: a shard of all of them, or a file for each, called as its recording.

    recordings: that were listened to, the failed ones too. A shard is called after them: tried again, it is replaced.
    """
    if kind in ("jsonl", "parquet"):
        name = f"{_SHARD}{content_id([each.name for each in recordings])}{_SUFFIXES[kind]}"
        write_file(output, _shard([_row(each) for each in transcripts], kind), name=name)
        return
    for each in transcripts:
        write_file(output, _alone(each, kind).encode(), name=file_name(each.name, kind))


def file_name(recording: str, kind: Format) -> str:
    """What the transcript of a recording is called that has a file of its own.

    >>> file_name("monday/note.wav", "srt")
    'monday/note.srt'
    >>> file_name("call.1", "srt")
    'call.1.srt'
    """
    path = PurePosixPath(recording)
    return str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path) + _SUFFIXES[kind]


def written(output: str, kind: Format) -> set[str]:
    """Names of the recordings whose transcripts are there; of the files, where each has one."""
    if kind == "jsonl":
        return {row["name"] for shard in _shards(output, kind) for row in map(json.loads, _lines(output, shard))}
    if kind == "parquet":
        shards = read_shards(output, _shards(output, kind), ["name"])
        return {name for shard in shards for name in shard.table["name"].to_pylist()}
    filesystem, path = open_filesystem(output)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return {info.path.removeprefix(path).lstrip("/") for info in infos if info.path.endswith(_SUFFIXES[kind])}


def remaining(recordings: Iterable[Recording], output: str, kind: Format) -> list[Recording]:
    """Those that have no transcript yet. Raises `UserError` for two whose transcripts would have one name."""
    there = written(output, kind)
    if kind in ("jsonl", "parquet"):
        return [recording for recording in recordings if recording.name not in there]
    owners: dict[str, str] = {}
    for recording in recordings:
        file = file_name(recording.name, kind)
        if file in owners:
            raise UserError(
                f"{owners[file]} and {recording.name} would both be written to {file}; choose jsonl or parquet, or "
                "rename one of them"
            )
        owners[file] = recording.name
    return [recording for recording in recordings if file_name(recording.name, kind) not in there]


def _shards(output: str, kind: Format) -> list[str]:
    return [name for name in list_files(output, _SUFFIXES[kind]) if name.startswith(_SHARD)]


def _lines(output: str, shard: str) -> list[str]:
    filesystem, path = open_filesystem(output)
    with filesystem.open_input_stream(f"{path}/{shard}") as stream:
        # not `splitlines`: texts may hold other ends of lines
        return stream.read().decode().split("\n")[:-1]


def _row(transcript: Transcript) -> dict[str, Any]:
    words = [
        {"word": word.text, "start": word.start_seconds, "end": word.end_seconds, "confidence": word.confidence}
        for word in transcript.heard.words
    ]
    return {"name": transcript.name, "text": transcript.heard.text, "seconds": transcript.seconds, "words": words}


def _shard(rows: list[dict[str, Any]], kind: Format) -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), buffer)
    return buffer.getvalue()


def _alone(transcript: Transcript, kind: Format) -> str:
    if kind == "srt":
        return as_srt(transcript.heard.words)
    if kind == "vtt":
        return as_vtt(transcript.heard.words)
    return transcript.heard.text + "\n"
