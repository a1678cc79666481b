"""What all exports share: the rows with their audio, and a folder that appears whole."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayapp.audio.codec import decode, encode_flac
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.manifest import Manifest
from rayapp.storage import key_of, published_folder

Progress = Callable[[int, int], None]
"""Called with how many utterances are exported, and of how many."""
ROWS_PER_SHARD = 1000
"""At most: some 100 MB of speech."""
_TOLD = ("utterance_id", "slot_id", "terms", "category", "voice", "accent", "snr_db")
"""Columns that go along under their own names."""
_COLUMNS = ("audio", "text", "language", "words", *_TOLD)


@dataclass(frozen=True)
class Exported:
    """An utterance on its way to other tools."""

    name: str
    """Of its file, without an ending."""
    flac: bytes
    duration_seconds: float
    sample_rate_hz: int
    row: Mapping[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """What goes along beside the text, as far as the manifest tells it."""
        return {name: self.row[name] for name in _TOLD if self.row[name] is not None}


class Source:
    """What is exported: some splits of a manifest. Raises `UserError` for a split that is not there."""

    def __init__(
        self, manifest: Manifest, splits: Sequence[str] = (), progress: Progress = lambda done, total: None
    ) -> None:
        """splits: without any, all are exported."""
        self.manifest = manifest
        self.rows = {split: _rows_of(manifest, split) for split in splits or manifest.splits}
        self._progress = progress
        self._done = itertools.count(1)

    def utterances(self, split: str) -> Iterator[Exported]:
        """Those of a split, in order. Raises `UserError` for one whose audio cannot be read."""
        number, total = itertools.count(), sum(self.rows.values())
        for batch in self.manifest.batches(split, _COLUMNS):
            for row in batch.to_pylist():
                utterance = self._exported(row, split, next(number))
                self._progress(next(self._done), total)
                yield utterance

    @contextmanager
    def publish(self, output: Path) -> Iterator[Path]:
        """A folder that is `output` once the export is whole. An earlier export is replaced, and nothing else."""
        earlier = key_of(output)
        if earlier is not None and not earlier.startswith("export-"):
            raise UserError(f"{output} exists and is no export; it would be replaced: choose another folder")
        key = content_id(key_of(self.manifest.location), list(self.rows))
        with published_folder(output, f"export-{key}") as folder:
            yield folder

    def _exported(self, row: Mapping[str, Any], split: str, number: int) -> Exported:
        import soundfile

        data = (row["audio"] or {}).get("bytes") or b""
        try:
            flac = data if data.startswith(b"fLaC") else encode_flac(decode(data, name="its audio"))
            info = soundfile.info(io.BytesIO(flac))
        except (UserError, soundfile.LibsndfileError) as error:
            raise UserError(
                f"manifest {self.manifest.location}, {split} row {number}: {error}; "
                "`rayapp manifest validate` lists all such rows"
            ) from None
        name = row["utterance_id"] or f"{split}_{number:07d}"
        # An ID may look like a path, or end as NeMo ends the parts of a file.
        name = name if re.fullmatch(r"\w+", name) else content_id(name)
        return Exported(name, flac, info.frames / info.samplerate, info.samplerate, row)


def _rows_of(manifest: Manifest, split: str) -> int:
    manifest.shards(split)
    return manifest.count(split)
