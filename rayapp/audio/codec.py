"""Decoding whatever a user sends, and the FLAC that manifests hold."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import soundfile
import soxr

from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ, Audio


def encode_flac(audio: Audio) -> bytes:
    """16-bit FLAC of (samples,) at 16 kHz."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode(source: Path | bytes | BinaryIO, *, name: str = "audio", max_seconds: float | None = None) -> Audio:
    """Any file that libsndfile reads, as (samples,) mono float32 at 16 kHz.

    Raises `UserError` for what is not audio, is empty, or is longer than `max_seconds` (which is
    seen before it is decoded).
    """
    if isinstance(source, Path):
        name = str(source)
        if not source.is_file():
            raise UserError(f"{name} does not exist or is not a file")
    elif isinstance(source, bytes):
        source = io.BytesIO(source)
    try:
        with soundfile.SoundFile(source) as file:
            seconds = file.frames / file.samplerate
            if max_seconds is not None and seconds > max_seconds:
                raise UserError(f"{name} lasts {seconds:.0f} s; {max_seconds:.0f} s is the most")
            samples = file.read(dtype="float32", always_2d=True)
            rate = file.samplerate
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{name} is not audio that can be read ({error.error_string}); send WAV, FLAC, OGG or MP3"
        ) from None
    if not len(samples):
        raise UserError(f"{name} holds no audio")
    mono = samples.mean(axis=1)
    return mono if rate == SAMPLE_RATE_HZ else soxr.resample(mono, rate, SAMPLE_RATE_HZ)
