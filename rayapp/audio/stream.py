"""Decoding whatever a client sends, block by block: an upload of a few MB may hold hours, or claim to."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError

from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ, Audio

_FORMATS = "aac,ac3,aiff,amr,asf,au,caf,flac,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav,webm"
"""ffmpeg's demuxers that read sound from the bytes they are given. Its others follow addresses and paths that stand in
the file, such as those of playlists."""
_MISSING_SECONDS, _MISSING_BYTES = 1.0, 16_000
"""A file may hold so much less than it says: encoders pad and round."""
_RATES_HZ = range(4_000, 384_001)
"""A frame of a few bytes may claim to last for minutes, at a rate of a few samples in a second."""
_GAP_SECONDS, _LONGEST_GAP_SECONDS = 0.1, 3600.0
"""What was not sent, since it was silence or got lost, is silence."""


def decoded(source: Path | BinaryIO, *, name: str = "the file", max_seconds: float | None = None) -> Iterator[Audio]:
    """The sound of a file, as (samples,) mono float32 blocks at 16 kHz; a stereo file's channels are averaged.

    source: anything that ffmpeg reads as sound: FLAC, MP3, MP4, M4A, Ogg, Opus, WAV, WebM and more.
    max_seconds: decoding stops there, whatever the file says of its length.

    Raises `UserError` for what is not audio, is empty, damaged or cut off, or is longer than `max_seconds`.
    """
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{source} does not exist or is not a file")
    _require_whole_riff(source, name)
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file" if isinstance(source, Path) else ""}
    try:
        with av.open(source, "r", options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise UserError(f"{name} has no sound in it; it is {container.format.long_name}")
            yield from _blocks(container, name, max_seconds)
    except UserError:
        raise
    except (FFmpegError, ValueError) as error:
        raise UserError(f"{name} is not audio that can be read ({_reason(error)})") from None


def _blocks(container: InputContainer, name: str, max_seconds: float | None) -> Iterator[Audio]:
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE_HZ)
    if stream.rate not in _RATES_HZ:
        raise UserError(f"{name} has {stream.rate} samples in a second; {_RATES_HZ[0]} to {_RATES_HZ[-1]} can be read")
    samples, clock = 0, _Clock()
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError as error:
            if not samples:
                continue  # a stream may start in the middle of something
            at = samples / SAMPLE_RATE_HZ
            raise UserError(f"{name} is damaged after {at:.1f} s ({_reason(error)}); send it whole") from None
        for block in _filled(resampler, frames, clock, name):
            samples += len(block)
            if max_seconds is not None and samples > max_seconds * SAMPLE_RATE_HZ:
                raise UserError(f"{name} is longer than {max_seconds:g} s, the most that is taken")
            yield block
    for block in _resampled(resampler, [None]):
        samples += len(block)
        yield block
    if not samples:
        raise UserError(f"{name} holds no audio")
    found, said = samples / SAMPLE_RATE_HZ, _said_seconds(container)
    if said - found > _MISSING_SECONDS:
        raise UserError(f"{name} is cut off: it says that it lasts {said:.1f} s and holds {found:.1f} s; send it whole")


class _Clock:
    """How much of a stream was decoded, by its samples, and when it began, by its own time."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.seconds = 0.0

    def gap(self, frame: AudioFrame) -> float:
        """Seconds that are missing before a frame."""
        if frame.time is None:
            return 0.0
        if self.began is None:
            self.began = frame.time - self.seconds
        return float(frame.time - self.began - self.seconds)


def _filled(resampler: av.AudioResampler, frames: list[AudioFrame], clock: _Clock, name: str) -> Iterator[Audio]:
    """Blocks at 16 kHz, with silence where the times of the frames leave a gap."""
    for frame in frames:
        if (gap := clock.gap(frame)) > _GAP_SECONDS:
            if gap > _LONGEST_GAP_SECONDS:
                raise UserError(f"{name} is damaged: after {clock.seconds:.1f} s, {gap:.0f} s are missing")
            silence = round(gap * SAMPLE_RATE_HZ)
            for start in range(0, silence, SAMPLE_RATE_HZ):
                yield np.zeros(min(silence - start, SAMPLE_RATE_HZ), np.float32)
            clock.seconds += gap
        clock.seconds += frame.samples / frame.sample_rate
        yield from _resampled(resampler, [frame])


def _resampled(resampler: av.AudioResampler, frames: list[AudioFrame] | list[None]) -> Iterator[Audio]:
    """frames: `[None]` at the end, for what the resampler still holds."""
    for frame in frames:
        if frame is not None:
            frame.pts = None  # the resampler would fill or cut by its own account
        for out in resampler.resample(frame):
            channels = out.to_ndarray()
            block = channels.mean(axis=0, dtype=np.float32) if len(channels) > 1 else channels[0]
            yield np.clip(np.nan_to_num(block), -1.0, 1.0)  # decoders overshoot full scale, floats may hold anything


def _said_seconds(container: InputContainer) -> float:
    """How long the sound is by its file's own account; 0 for formats in which that is guessed from the bytes."""
    if not {"w64", "flac", "aiff", "caf", "mov", "matroska"} & set(container.format.name.split(",")):
        return 0.0
    stream = container.streams.audio[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # a picture may go on without sound
    return (container.duration or 0) / av.time_base if alone else 0.0


def _require_whole_riff(source: Path | BinaryIO, name: str) -> None:
    """ffmpeg takes what there is of a WAV file; its header says how much there should be."""
    with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
        there = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(8)
        file.seek(0)
    said = int.from_bytes(head[4:], "little") + 8
    if (
        head[:4] == b"RIFF" and there + _MISSING_BYTES < said < 0x7FFFFFFF
    ):  # those who write to a pipe do not know it, and say so
        raise UserError(f"{name} is cut off: it says that it has {said} bytes and has {there}; send it whole")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")
