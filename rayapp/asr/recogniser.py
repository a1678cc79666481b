"""What every recogniser can do, whoever wrote it: be trained, evaluated and served through one Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from rayapp.asr.context import Context
from rayapp.records import Audio

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Word:
    """A word that was heard, with its times in seconds from the start of the audio."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float | None = None
    """How sure the recogniser is of it, 0 to 1; None where it does not tell."""


@dataclass(frozen=True)
class Heard:
    """What a recogniser made of one audio."""

    text: str
    words: tuple[Word, ...] = ()


class SpeechBatch(NamedTuple):
    """What a model learns from: utterances and their targets, padded to one length."""

    audio: torch.Tensor
    """(batch, samples) float32, mono, 16 kHz, full scale ±1; padded with 0."""
    audio_lengths: torch.Tensor
    """(batch,) int64, in samples."""
    tokens: torch.Tensor
    """(batch, labels) int64, as the recogniser's tokeniser gives them; padded with 0."""
    token_lengths: torch.Tensor
    """(batch,) int64."""
    phoneme_slices: torch.Tensor
    """(batch, slices) int64, see `rayapp.asr.phonemes`; padded with its `UNKNOWN`, and (batch, 0) where they are not
    learnt."""

    def to(self, device: torch.device | str) -> SpeechBatch:
        return SpeechBatch(*(tensor.to(device) for tensor in self))


class Tokeniser(Protocol):
    """From a text to what a recogniser learns to emit. Light, and can be pickled: it travels to workers without a
    model."""

    def encode(self, text: str) -> list[int]:
        """The training target of a text."""
        ...

    def inexpressible(self, text: str) -> str:
        """The characters of a text that it has no token for, each once, in order; "" for a text that it can write."""
        ...


class Recogniser(Protocol):
    """A model that turns audio into text.

    All audio is (samples,) float32, mono, 16 kHz, full scale ±1.
    """

    module: torch.nn.Module
    """Its forward takes the fields of a `SpeechBatch` and returns the loss, a scalar: the mean over the batch. The
    features that the model sees are computed inside, on the module's device, without a gradient."""

    @property
    def tokeniser(self) -> Tokeniser:
        """Of the texts that it learns."""
        ...

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Self:
        """From what `save` wrote. Raises `UserError` for a path that is no such model."""
        ...

    def learn_phonemes(self, count: int, weight: float) -> None:
        """From now on `module` adds to its loss how badly the encoder tells `count` phonemes apart, times `weight`.

        What is added for it is not saved with the model. Raises `UserError` where the model cannot be taught so.
        """
        ...

    def checkpoint_activations(self) -> int:
        """From now on layers forget their activations and compute them anew in the backward pass: less memory for
        about a third more work. The loss and its gradient stay the same.

        Returns how many layers do so.
        """
        ...

    @property
    def takes_context(self) -> bool:
        """Whether `transcribe` can be told what is likely to be said."""
        ...

    def transcribe(
        self, audio: Sequence[Audio], *, times: bool = False, contexts: Sequence[Context] = ()
    ) -> list[Heard]:
        """One `Heard` per audio, in order; padded and decoded as one batch.

        times: fill in `Heard.words`, with times and confidences.
        contexts: what is known of each audio; none at all for all. Raises `UserError` for any where `takes_context`
            is false.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the whole model: one `.nemo` file, or a folder in Hugging Face's layout."""
        ...
