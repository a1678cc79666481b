"""Recorded backgrounds: never the same recording in training and in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr

from pipelines.augmentation.loop import looped
from pipelines.augmentation.recording_sources import Recording, Source, open_source
from pipelines.augmentation.sides import Side, side_of
from rayapp.audio.levels import rms
from rayapp.errors import RejectedError, UserError
from rayapp.ids import content_id
from rayapp.records import SAMPLE_RATE_HZ, Slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHORTEST_SECONDS = 0.5
"""What is shorter would sound as a buzz when it is repeated."""
_SILENCE = 1e-5
"""Below this level (-100 dB of full scale) there is nothing to amplify."""


class Recordings:
    """The recordings of a folder or manifest, in two parts."""

    def __init__(self, location: str, source: Source, recordings: Sequence[Recording]) -> None:
        self.location = location
        self.source = source
        self.recordings = recordings
        self.sides: dict[Side, list[Recording]] = {
            "train": [recording for recording in recordings if recording.side == "train"],
            "test": [recording for recording in recordings if recording.side == "test"],
        }

    @classmethod
    def open(cls, location: str) -> Recordings:
        """Lists them; reads none.

        Raises `UserError` for a location that holds no recordings, or none for training or the tests.
        """
        source = open_source(location)
        opened = cls(location, source, source.recordings())
        for side, recordings in opened.sides.items():
            if not recordings:
                raise UserError(
                    f"{location} has {len(opened.recordings)} recordings, none of them for {side}: a quarter goes to "
                    "the tests, by hash; add some, or give each file a split (train or test) in metadata.jsonl"
                )
        return opened

    @property
    def recordings_id(self) -> str:
        """Changes with the names and sizes of the recordings, their licences and sides."""
        return content_id([list(recording) for recording in self.recordings])

    def check(self) -> None:
        """Open each one. Raises `UserError` that names those that cannot be used, and why."""
        problems = []
        for recording in self.recordings:
            try:
                self._read(recording, SAMPLE_RATE_HZ, share=0.0)
            except RejectedError as error:
                problems.append(str(error))
        if problems:
            more = f"\n  and {len(problems) - 10} more" if problems[10:] else ""
            raise UserError(
                f"{len(problems)} of the {len(self.recordings)} recordings in {self.location} cannot be used; remove "
                "or mend them:\n  " + "\n  ".join(problems[:10]) + more
            )

    def draw(self, slot: Slot, samples: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A stretch of one recording, (samples,) at 16 kHz, and which.

        Raises `RejectedError` for a recording that cannot be read, or is silent there.
        """
        rng = slot.rng("recording")
        side = self.sides[side_of(slot)]
        recording = side[int(rng.integers(len(side)))]
        sound, start = self._read(recording, samples, share=float(rng.random()))
        background = looped(sound, samples)
        if rms(background) < _SILENCE:
            raise RejectedError(f"recording {recording.name} is silent")
        return background, {
            "recording": recording.name,
            "start": start,
            "licence": recording.licence,
        }

    def _read(self, recording: Recording, samples: int, share: float) -> tuple[NDArray[np.float32], int]:
        """Up to `samples` at 16 kHz, mono, and where they start, in samples of the recording.

        share: how far into what could be the start, from 0 to 1. No more is decoded than is needed.
        """
        try:
            with self.source.open(recording) as stream, soundfile.SoundFile(stream) as file:
                if file.frames < _SHORTEST_SECONDS * file.samplerate:
                    seconds = file.frames / file.samplerate
                    raise RejectedError(
                        f"recording {recording.name} lasts {seconds:.2f} s; {_SHORTEST_SECONDS} s is least"
                    )
                wanted = -(-samples * file.samplerate // SAMPLE_RATE_HZ) + 1
                start = int(share * max(file.frames - wanted, 0))
                file.seek(start)
                sound = file.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
                rate_hz = file.samplerate
        except (soundfile.LibsndfileError, OSError) as error:
            what = getattr(error, "error_string", None) or str(error)
            raise RejectedError(f"recording {recording.name} cannot be read ({what.rstrip('.')})") from error
        if not len(sound) or not np.isfinite(sound).all():
            raise RejectedError(f"recording {recording.name} is damaged")
        return (sound if rate_hz == SAMPLE_RATE_HZ else soxr.resample(sound, rate_hz, SAMPLE_RATE_HZ)), start
