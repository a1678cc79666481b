"""Which recordings lie at the places that were named: files, folders of files, manifests; on disk or on S3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.records import SAMPLE_RATE_HZ
from rayapp.storage import key_of, name_of, open_filesystem

SUFFIXES = (
    *(".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov", ".mp3", ".mp4"),
    *(".mpeg", ".mpga", ".oga", ".ogg", ".opus", ".wav", ".webm"),
)
"""What a folder is searched for. A file that is named by itself may be called anything."""


_BYTES_PER_SECOND = 2 * SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Recording:
    """Where a recording lies."""

    name: str
    """By which its transcript is found: its path within the folder that was named, or its ID in a manifest."""
    place: str
    """That was named: a file, a folder, or a manifest."""
    size_bytes: int
    """Of the file; as much as its audio takes uncompressed, in a manifest."""
    path: str = ""
    """Of the file, in the place's filesystem; empty for one in a manifest."""
    split: str = ""
    """Of the manifest."""
    row: int = 0
    """In the split."""


def find_recordings(places: Sequence[str]) -> list[Recording]:
    """All recordings at files, folders and manifests, in order; a folder is searched with what lies in its folders.

    Raises `UserError` for a place without any, and for two of one name.
    """
    found: list[Recording] = []
    for place in places:
        there = list(_at(place))
        if not there:
            raise UserError(f"{place} has no recordings: no file ends in {', '.join(SUFFIXES)}")
        found += there
    names = Counter(recording.name for recording in found)
    if twice := next((name for name, times in names.items() if times > 1), None):
        raise UserError(f"two recordings are called {twice}; give the folder that both lie in")
    return found


def _at(place: str) -> Iterator[Recording]:
    filesystem, path = open_filesystem(place)
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise UserError(f"{place} does not exist")
        if info.type == fs.FileType.File:
            yield Recording(name_of(place), place, info.size, path)
        elif key_of(place) is not None:
            yield from _in_manifest(place)
        else:
            yield from _in_folder(place, filesystem, path)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error}") from error


def _in_folder(place: str, filesystem: fs.FileSystem, path: str) -> Iterator[Recording]:
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    for info in sorted(infos, key=lambda info: info.path):
        name = info.path.removeprefix(path).lstrip("/")
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        if info.type == fs.FileType.File and not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES:
            yield Recording(name, place, info.size, info.path)


def _in_manifest(place: str) -> Iterator[Recording]:
    manifest = Manifest(place)
    for split in manifest.splits:
        columns = manifest.read(split, ["utterance_id", "duration_seconds"]).to_pydict()
        for row, (name, seconds) in enumerate(zip(columns["utterance_id"], columns["duration_seconds"], strict=True)):
            size = int((seconds or 0) * _BYTES_PER_SECOND)
            yield Recording(name, place, size, split=split, row=row)
