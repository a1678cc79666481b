"""Where recorded backgrounds lie: in a folder of audio files, or in a manifest; on local disk or S3."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any, NamedTuple, Protocol

from pyarrow import fs

from pipelines.augmentation.sides import Side
from rayapp.errors import UserError
from rayapp.ids import content_share
from rayapp.manifest import UNKNOWN_LICENCE, Manifest
from rayapp.storage import key_of, open_filesystem

_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_TEST_SHARE = 0.25


class Recording(NamedTuple):
    """One recorded background."""

    name: str
    """Path within the folder, or `utterance_id` within the manifest (`split/row` where there is none)."""
    size: float
    """Bytes of the file, or seconds of the row: a change of either makes it another recording."""
    licence: str
    side: Side


class Source(Protocol):
    """Holds recordings, encoded."""

    def recordings(self) -> list[Recording]:
        """All of them, in the same order everywhere."""
        ...

    def open(self, recording: Recording) -> IO[bytes]:
        """Raises `OSError` where it is gone."""
        ...


def open_source(location: str) -> Source:
    """A manifest, where the location was published as one; else a folder of audio files.

    Raises `UserError` where it is neither.
    """
    return ManifestSource(location) if key_of(location) is not None else FolderSource(location)


class FolderSource:
    """Audio files of a folder and of the folders in it.

    `metadata.jsonl` (keys `file_name`, `licence`, `split`) or `licences.csv` (the same as columns) may tell their
    licences, and which of them are for the tests; else a quarter is, by hash of the name.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.filesystem, self.path = open_filesystem(location)

    def recordings(self) -> list[Recording]:
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        sizes = {
            info.path[len(self.path) :].lstrip("/"): info.size
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File and info.base_name.lower().endswith(_SUFFIXES)
        }
        if not sizes:
            raise UserError(f"{self.location} holds no recordings; give a folder of {', '.join(_SUFFIXES)} files")
        told = dict(self._told(sizes))
        return [_recording(name, size, told.get(name, {})) for name, size in sorted(sizes.items())]

    def open(self, recording: Recording) -> IO[bytes]:
        return self.filesystem.open_input_file(f"{self.path}/{recording.name}")

    def _told(self, names: Collection[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What the two files tell, by name of the recording."""
        for file_name, read in (("licences.csv", _csv_rows), ("metadata.jsonl", _json_rows)):
            if self.filesystem.get_file_info(f"{self.path}/{file_name}").type != fs.FileType.File:
                continue
            with self.filesystem.open_input_stream(f"{self.path}/{file_name}") as stream:
                text = stream.read().decode("utf-8-sig", errors="replace")
            for number, row in read(text):
                if not isinstance(row, dict) or row.get("file_name") not in names:
                    raise UserError(
                        f"{self.location}/{file_name}, line {number}: {row!r} has no file_name of a recording in the "
                        'folder; a line is such as {"file_name": "ward/lift.wav", "licence": "CC0-1.0"}'
                    )
                yield row["file_name"], row


class ManifestSource:
    """The utterances of one of our manifests, of all its splits; a column `licence` tells theirs, or else the card."""

    def __init__(self, location: str) -> None:
        self.manifest = Manifest(location)
        self._rows: dict[str, tuple[str, int]] = {}

    def recordings(self) -> list[Recording]:
        recordings = []
        of_all = ", ".join(self.manifest.licences)
        for split in self.manifest.splits:
            licence = ["licence"] if "licence" in self.manifest.schema(split).names else []
            columns = ["utterance_id", "duration_seconds", "audio_hash", *licence]
            for row, values in enumerate(self.manifest.read(split, columns).to_pylist()):
                name = values["utterance_id"] or f"{split}/{row}"  # manifests of other tools have none
                self._rows[name] = split, row
                told = {"licence": values.get("licence") or of_all}
                recordings.append(_recording(name, values["duration_seconds"], told, values["audio_hash"]))
        if not recordings:
            raise UserError(f"manifest {self.manifest.location} has no utterances to take as backgrounds")
        return recordings

    def open(self, recording: Recording) -> IO[bytes]:
        split, row = self._rows[recording.name]
        return io.BytesIO(self.manifest.take(split, [row], ["audio"])["audio"][0].as_py()["bytes"])


def _recording(name: str, size: float, told: Mapping[str, Any], hashed: str | None = None) -> Recording:
    side: Side = "test" if content_share("recording", hashed or name) < _TEST_SHARE else "train"
    split = told.get("split") or side
    if split not in ("train", "test"):
        raise UserError(f"recording {name} has split {split!r}; train and test are the ones there are")
    return Recording(name, size, told.get("licence") or told.get("license") or UNKNOWN_LICENCE, split)


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text))
    for row in reader:
        yield reader.line_num, row


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError:
                yield number, line
