"""Lossy compression: the audio is encoded and decoded again, and is as long, and as late, as it was."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile

from pipelines.augmentation.chance import happens
from pipelines.augmentation.config import CodecConfig, CodecName, CompandingLaw
from rayapp.records import SAMPLE_RATE_HZ, Audio, Utterance
from rayapp.stage import Resources, Stage

_MP3_DELAY = 576 + 529
"""Samples: of LAME's encoder and of the decoder. Files with room for LAME's header tell it, and it is cut off then."""
_FULL_SCALE = 32767 / 32768
"""libsndfile's G.711 wraps around above it."""


class Compress(Stage):
    """Encodes and decodes with a drawn codec, at a drawn bit rate."""

    name = "codec"
    version = 1
    resources = Resources(cpus=0.5)

    def __init__(self, config: CodecConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        audio, config = utterance.audio, self.config
        assert audio is not None
        if not happens(utterance.slot, self.name, config.probability):
            return utterance
        rng = utterance.slot.rng("codec")
        codec = config.codecs[int(rng.integers(len(config.codecs)))]
        params: dict[str, Any] = {"codec": codec}
        if codec in ("mp3", "opus"):
            params["kbps"] = round(float(rng.uniform(config.min_kbps, config.max_kbps)), 1)
        return utterance.with_audio(compressed(audio, **params)).with_step(self.name, self.version, **params)


def compressed(audio: Audio, codec: CodecName, kbps: float = 0.0) -> Audio:
    """(samples,) at 16 kHz, after a round trip; as many samples, none of them late.

    kbps: of mp3 and opus; mp3 takes the nearest that it has. G.711 keeps the sample rate, and has 128.
    """
    if codec == "mp3":
        return _mp3(audio, kbps)
    if codec == "opus":
        return _opus(audio, kbps)
    return companded(audio, codec)


def companded(audio: Audio, law: CompandingLaw, rate_hz: int = SAMPLE_RATE_HZ) -> Audio:
    """After G.711: eight bits a sample; what is above full scale is cut off."""
    audio = np.clip(audio, -_FULL_SCALE, _FULL_SCALE)
    return _round_trip(audio, rate_hz, format="WAV", subtype="ULAW" if law == "mulaw" else "ALAW")


def _mp3(audio: Audio, kbps: float) -> Audio:
    level = min((160 - kbps) / 152, 0.99)  # libsndfile: 0 is the 160 kbps of MPEG-2, 1 would be its 8
    decoded = _round_trip(
        audio, format="MP3", subtype="MPEG_LAYER_III", compression_level=level, bitrate_mode="CONSTANT"
    )
    return decoded[_MP3_DELAY:][: len(audio)] if len(decoded) > len(audio) else decoded


def _opus(audio: Audio, kbps: float) -> Audio:
    level = (256 - kbps) / 250  # libsndfile: 0 is 256 kbps, 1 is 6
    return _round_trip(audio, format="OGG", subtype="OPUS", compression_level=level)


def _round_trip(audio: Audio, rate_hz: int = SAMPLE_RATE_HZ, **settings: Any) -> Audio:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate_hz, **settings)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]
