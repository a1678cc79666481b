"""Settings of the augmentation step."""

from __future__ import annotations

from collections import Counter
from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from rayapp.config import Location, StepConfig

TransformName: TypeAlias = Literal[
    "room", "noise", "microphone", "response", "telephone", "codec", "clipping", "speed", "padding"
]
MicrophoneKind: TypeAlias = Literal["lapel", "phone", "far_desk"]
CompandingLaw: TypeAlias = Literal["mulaw", "alaw"]
CodecName: TypeAlias = Literal["mp3", "opus", "mulaw", "alaw"]


class TransformConfig(StepConfig):
    """Base of every transform's settings: no `min_…` may be above its `max_…`."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        section = type(self).__name__.removesuffix("Config").lower()
        for low in (name for name in type(self).model_fields if name.startswith("min_")):
            high = low.replace("min_", "max_", 1)
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"augmentation.{section}: {low} ({getattr(self, low)}) is above {high} ({getattr(self, high)}); "
                    "swap them"
                )
        return self


class RoomConfig(TransformConfig):
    """Rooms that the speech is played in."""

    probability: float = Field(default=0.7, ge=0, le=1)
    """Share of the utterances that are in a room; the others stay dry, as with a headset."""
    rooms: int = Field(default=40, ge=2)
    """How many rooms there are; half are heard in training, half in the tests."""


class WeightsConfig(StepConfig):
    """How often each synthesised background is drawn, relative to the others; 0 leaves one out."""

    ventilation: float = Field(default=1.0, ge=0)
    """Air ducts and the hum of a fan."""
    monitor: float = Field(default=1.0, ge=0)
    """The beeps of a patient monitor."""
    murmur: float = Field(default=1.0, ge=0)
    """Speech-shaped noise from the corridor."""
    alarm: float = Field(default=0.0, ge=0)
    """Bursts of an alarm, timed as IEC 60601-1-8 has it."""
    footsteps: float = Field(default=0.0, ge=0)
    """Somebody walking past."""
    babble: float = Field(default=0.0, ge=0)
    """Several of the speech step's voices at once."""

    @model_validator(mode="after")
    def _one_can_be_drawn(self) -> Self:
        if not any(self.model_dump().values()):
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"augmentation.noise.weights are all 0; give a weight to one or more of {names}")
        return self


class NoiseConfig(TransformConfig):
    """How loud the surroundings are, relative to the speaker."""

    probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the utterances that get a background."""
    min_snr_db: float = 10.0
    """Loudest noise to add."""
    max_snr_db: float = 25.0
    """Faintest noise to add; the SNR is drawn uniformly between the two."""
    weights: WeightsConfig = WeightsConfig()
    """How often each synthesised background is drawn."""
    backgrounds: Location | None = None
    """Folder of audio files, or manifest, to take recorded backgrounds from; without it, all are synthesised."""
    recordings_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the backgrounds that are recordings, where there are some; the others are synthesised."""


class MicrophoneConfig(TransformConfig):
    """What the microphone's amplifier does."""

    probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the utterances that get gain and Gaussian noise."""
    min_gain_db: float = -12.0
    """Quietest recording, relative to speech at half of full scale."""
    max_gain_db: float = 3.0
    """Loudest recording; what would clip is turned down to fit."""
    min_hiss_db: float = 36.0
    """Loudest Gaussian noise, in dB below the speech: so low that the SNR of the row stays true."""
    max_hiss_db: float = 50.0
    """Faintest Gaussian noise."""


class ResponseConfig(TransformConfig):
    """Which frequencies the microphone favours."""

    probability: float = Field(default=0.5, ge=0, le=1)
    """Share of the utterances that are heard through such a microphone."""
    microphones: tuple[MicrophoneKind, ...] = Field(default=("lapel", "phone", "far_desk"), min_length=1)
    """Which ones there are; each utterance draws one, and how much it differs from its kind."""


class TelephoneConfig(TransformConfig):
    """A call over the telephone network: 300–3400 Hz, 8 kHz, G.711."""

    probability: float = Field(default=0.2, ge=0, le=1)
    """Share of the utterances that are calls."""
    laws: tuple[CompandingLaw, ...] = Field(default=("mulaw", "alaw"), min_length=1)
    """Companding of G.711: `mulaw` in North America and Japan, `alaw` elsewhere."""


class CodecConfig(TransformConfig):
    """Lossy compression and decompression."""

    probability: float = Field(default=0.3, ge=0, le=1)
    """Share of the utterances that are compressed."""
    codecs: tuple[CodecName, ...] = Field(default=("mp3", "opus"), min_length=1)
    """Which ones there are; each utterance draws one."""
    min_kbps: float = Field(default=16.0, ge=8, le=128)
    """Lowest bit rate of mp3 and opus."""
    max_kbps: float = Field(default=64.0, ge=8, le=128)
    """Highest bit rate of mp3 and opus; G.711 has but one."""


class ClippingConfig(TransformConfig):
    """A recording that was turned up too far."""

    probability: float = Field(default=0.1, ge=0, le=1)
    """Share of the utterances that are clipped."""
    min_share: float = Field(default=0.001, gt=0, lt=1)
    """Fewest of the samples that are cut off, as a share."""
    max_share: float = Field(default=0.02, gt=0, lt=1)
    """Most of the samples that are cut off, as a share."""


class SpeedConfig(TransformConfig):
    """Speech that is faster and higher, or slower and lower, as when a tape is played at another speed."""

    probability: float = Field(default=0.4, ge=0, le=1)
    """Share of the utterances whose speed changes."""
    min_factor: float = Field(default=0.9, ge=0.5, le=2)
    """Slowest; 0.9 makes ten seconds last eleven."""
    max_factor: float = Field(default=1.1, ge=0.5, le=2)
    """Fastest."""


class PaddingConfig(TransformConfig):
    """Silence before and after the speech."""

    probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the utterances that are padded."""
    min_seconds: float = Field(default=0.0, ge=0)
    """Least silence at each end."""
    max_seconds: float = Field(default=0.5, ge=0)
    """Most silence at each end; each end draws its own."""


class CudaConfig(StepConfig):
    """Who works for `device: cuda`."""

    workers: int = Field(default=1, ge=1)
    """Processes that augment on a GPU."""
    gpus: float = Field(default=0.25, gt=0, le=1)
    """Of each of them; 0.25 lets four share one."""
    gpu_type: str | None = None
    """Ray's name of the GPUs that it needs, such as `A100` or `L40S`; unset, any."""


class AugmentationConfig(StepConfig):
    """From clean speech to speech as a ward would record it."""

    chain: tuple[TransformName, ...] = ("room", "noise", "microphone")
    """Which transforms there are, in the order in which they are applied; each at most once."""
    room: RoomConfig = RoomConfig()
    """Reverberation."""
    noise: NoiseConfig = NoiseConfig()
    """Background at a drawn SNR."""
    microphone: MicrophoneConfig = MicrophoneConfig()
    """Gain and Gaussian noise."""
    response: ResponseConfig = ResponseConfig()
    """The microphone's frequency response."""
    telephone: TelephoneConfig = TelephoneConfig()
    """The telephone network."""
    codec: CodecConfig = CodecConfig()
    """Lossy compression."""
    clipping: ClippingConfig = ClippingConfig()
    """Overdriven recordings."""
    speed: SpeedConfig = SpeedConfig()
    """Tempo and pitch."""
    padding: PaddingConfig = PaddingConfig()
    """Silence at both ends."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where rooms, noise, microphone and clipping are computed; `cuda` takes many utterances at a time."""
    cuda: CudaConfig = CudaConfig()
    """For `device: cuda`."""

    def idle_sections(self) -> tuple[str, ...]:
        return () if self.device == "cuda" else ("cuda",)

    @model_validator(mode="after")
    def _each_transform_stands_once(self) -> Self:
        twice = [name for name, count in Counter(self.chain).items() if count > 1]
        if twice:
            raise ValueError(f"augmentation.chain has {', '.join(twice)} more than once; name each transform once")
        return self
