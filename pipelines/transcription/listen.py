"""What a worker does: recordings in, transcripts out, in bounded memory however long a recording is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from pyarrow import fs

from pipelines.transcription.recordings import Recording
from rayapp.asr.batching import transcribe_all
from rayapp.asr.long_audio import Cutting, Joiner, Piece, pieces, whole
from rayapp.asr.recogniser import Heard, Recogniser
from rayapp.audio.stream import decoded
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.records import SAMPLE_RATE_HZ, Audio
from rayapp.storage import open_filesystem

_WINDOW_BATCHES = 4
"""So many batches' worth of pieces are held: enough to put alike ones together."""


class Transcript(NamedTuple):
    """What was said in a recording."""

    name: str
    heard: Heard
    seconds: float


class Failure(NamedTuple):
    """A recording that could not be listened to."""

    name: str
    reason: str


Outcome: TypeAlias = Transcript | Failure


@dataclass
class _Unfinished:
    """A recording of which something was read."""

    name: str
    joiner: Joiner = field(default_factory=Joiner)
    parts: list[Heard] = field(default_factory=list)
    seconds: float = 0.0
    failure: str | None = None

    def outcome(self) -> Outcome:
        if self.failure is not None:
            return Failure(self.name, self.failure)
        return Transcript(self.name, whole([*self.parts, self.joiner.end()]), self.seconds)


def listen(recogniser: Recogniser, recordings: Sequence[Recording], max_batch_seconds: float) -> Iterator[Outcome]:
    """One outcome per recording, in order. The pieces of many are batched together, as long as they are not too many.

    What cannot be read costs no other recording.
    """
    window: list[tuple[_Unfinished, Piece]] = []
    waiting: list[_Unfinished] = []
    held = 0.0
    for recording, open_file in _with_files(recordings):
        opened = _Unfinished(recording.name)
        waiting.append(opened)
        for piece in _pieces(open_file, opened):
            window.append((opened, piece))
            held += len(piece.audio) / SAMPLE_RATE_HZ
            if held > _WINDOW_BATCHES * max_batch_seconds:
                _hear(recogniser, window, max_batch_seconds)
                yield from (each.outcome() for each in waiting[:-1])
                window, waiting, held = [], [opened], 0.0
    _hear(recogniser, window, max_batch_seconds)
    yield from (each.outcome() for each in waiting)


def require_audio(recordings: Sequence[Recording]) -> None:
    """Raises `UserError` for a file that does not begin as audio; it may still turn out to be damaged."""
    for recording in recordings:
        if not recording.split:
            with _open_file(recording) as file:
                next(decoded(file, name=recording.name))


def _hear(recogniser: Recogniser, window: Sequence[tuple[_Unfinished, Piece]], max_batch_seconds: float) -> None:
    try:
        audio = [piece.audio for _, piece in window]
        heard = transcribe_all(recogniser, audio, times=True, max_batch_seconds=max_batch_seconds)
    except Exception as error:
        if len(window) > 1:  # the fault may be one's: the others are not to suffer for it
            for each in window:
                _hear(recogniser, [each], max_batch_seconds)
        else:
            window[0][0].failure = f"{type(error).__name__}: {error}"
        return
    for (opened, piece), told in zip(window, heard, strict=True):
        opened.parts.append(opened.joiner.add(piece, told))


def _pieces(open_file: Callable[[], BinaryIO], opened: _Unfinished) -> Iterator[Piece]:
    try:
        with open_file() as file:
            yield from pieces(_counted(decoded(file, name=opened.name), opened), Cutting())
    except (UserError, OSError) as error:
        opened.failure = str(error)


def _counted(blocks: Iterable[Audio], opened: _Unfinished) -> Iterator[Audio]:
    for block in blocks:
        opened.seconds += len(block) / SAMPLE_RATE_HZ
        yield block


def _with_files(recordings: Sequence[Recording]) -> Iterator[tuple[Recording, Callable[[], BinaryIO]]]:
    """What lies in a manifest is read together: a row alone takes as long as all that are stored with it."""
    for (place, split), group in groupby(recordings, key=lambda recording: (recording.place, recording.split)):
        together = list(group)
        if not split:
            yield from ((recording, partial(_open_file, recording)) for recording in together)
            continue
        numbers = [recording.row for recording in together]
        try:
            rows = Manifest(place).take(split, numbers, ["audio"])["audio"].to_pylist()
        except (UserError, OSError) as error:
            yield from ((recording, partial(_refuse, str(error))) for recording in together)
            continue
        for recording, audio in zip(together, rows, strict=True):
            there = bool(audio and audio["bytes"])
            open_row = partial(io.BytesIO, audio["bytes"]) if there else partial(_refuse, "the row holds no audio")
            yield recording, open_row


def _open_file(recording: Recording) -> BinaryIO:
    filesystem, _ = open_filesystem(recording.place)
    if isinstance(filesystem, fs.LocalFileSystem):
        return Path(recording.path).open("rb")
    return filesystem.open_input_file(recording.path)


def _refuse(reason: str) -> BinaryIO:
    raise UserError(reason)
