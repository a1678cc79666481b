"""What every recogniser can do, whoever wrote it: be trained, evaluated and served through one Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from rayapp.records import Audio

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Word:
    """A word that was heard, with its times in seconds from the start of the audio."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Heard:
    """What a recogniser made of one audio."""

    text: str
    words: tuple[Word, ...] = ()


class Recogniser(Protocol):
    """A model that turns audio into text.

    All audio is (samples,) float32, mono, 16 kHz, full scale ±1.
    """

    module: torch.nn.Module
    """Its forward takes a training batch (`features, feature_lengths, tokens, token_lengths, phoneme_slices`) and
    returns the loss."""

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Self:
        """From what `save` wrote. Raises `UserError` for a file that is no such model."""
        ...

    def features(self, audio: Audio) -> torch.Tensor:
        """What the model sees of an audio, (frames, mels) float16: always the same, so that training keeps it."""
        ...

    def tokenise(self, text: str) -> list[int]:
        """The training target of a text."""
        ...

    def learn_phonemes(self, count: int, weight: float) -> None:
        """From now on `module` adds to its loss how badly the encoder tells `count` phonemes apart, times `weight`.

        What is added for it is not saved with the model.
        """
        ...

    def transcribe(self, audio: Sequence[Audio], *, times: bool = False) -> list[Heard]:
        """One `Heard` per audio, in order; padded and decoded as one batch."""
        ...

    def save(self, path: Path) -> None:
        """Write the whole model as one file."""
        ...
