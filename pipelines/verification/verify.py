"""The stages that hear each utterance and decide whether it is what it says it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pipelines.verification.agreement import better_agreement
from pipelines.verification.config import VerificationConfig
from pipelines.verification.measure import clipped_share, silence_share, speaking_rates
from pipelines.verification.phones import Phonemiser, terms_of, worst_phone_distance
from rayapp.asr.resolve import resolve_recogniser
from rayapp.errors import UserError
from rayapp.records import Quality, Utterance
from rayapp.stage import BatchStage, Resources, Stage


def stages(
    config: VerificationConfig, phonemiser: Phonemiser, voices: Mapping[str, str]
) -> list[Callable[[], Stage | BatchStage]]:
    """What a chain lists at its end: nothing where verification is disabled, and no `Listen` without a recogniser.

    config: as `resolved` gives it.
    phonemiser: a function of a module, since it travels to the workers.
    voices: what the phonemiser calls the voice of a language, where that is not the language's own code.
    """
    if not config.enabled:
        return []
    verify = partial(Verify, config, phonemiser, voices)
    return [partial(Listen, config), verify] if config.recogniser else [verify]


def resolved(config: VerificationConfig) -> VerificationConfig:
    """The same settings with a path in place of the recogniser's name, after fetching what is not here yet.

    Raises `UserError` for a recogniser that is not there.
    """
    if not config.enabled or not config.recogniser:
        return config
    try:
        path = resolve_recogniser(config.recogniser)
    except UserError as error:
        raise UserError(f"verification.recogniser: {error}; null checks the signal and the phonemes alone") from None
    return config.model_copy(update={"recogniser": str(path)})


class Listen(BatchStage):
    """Has a recogniser hear the utterances; what it writes is judged by `Verify`."""

    name = "listen"
    version = 1
    resources = Resources(cpus=1.0, memory_gb=3.0)

    def __init__(self, config: VerificationConfig) -> None:
        import torch

        from rayapp.asr.open import open_recogniser

        assert config.recogniser
        if not config.gpus:
            torch.set_num_threads(1)  # each worker has one CPU
        self.batch_size = config.batch_size
        self.recogniser = open_recogniser(Path(config.recogniser), device="cuda" if config.gpus else "cpu")

    def on_batch(self, utterances: Sequence[Utterance]) -> Sequence[Utterance | Exception]:
        from rayapp.asr.batching import transcribe_all

        audio = [utterance.audio for utterance in utterances if utterance.audio is not None]
        heard = transcribe_all(self.recogniser, audio)
        return [utterance.with_quality(heard=h.text) for utterance, h in zip(utterances, heard, strict=True)]


class Verify(Stage):
    """Fills in the figures of `Quality`, and sets aside what is beyond a limit.

    The one that is set aside keeps its figures, so that limits can be chosen by looking at a manifest.
    """

    name = "verify"
    version = 2
    resources = Resources(cpus=0.5)

    def __init__(self, config: VerificationConfig, phonemiser: Phonemiser, voices: Mapping[str, str]) -> None:
        self.config = config
        self.phonemiser = phonemiser
        self.voices = voices

    def __call__(self, utterance: Utterance) -> Utterance:
        measured = self._measured(utterance)
        reason = next(self._reasons(measured), None)
        return measured.rejected(f"{self.name}: {reason}") if reason else measured

    def _measured(self, utterance: Utterance) -> Utterance:
        audio, transcript = utterance.audio, utterance.transcript
        assert audio is not None
        assert transcript
        rates = speaking_rates(transcript.spoken, max(utterance.duration_seconds, 1e-3))
        measured = utterance.with_quality(
            **rates._asdict(),
            clipped_share=clipped_share(audio),
            silence_share=silence_share(audio),
            phone_distance=worst_phone_distance(utterance, self.phonemiser, self.voices),
        )
        heard = utterance.quality.heard
        return measured if heard is None else measured.with_quality(**vars(better_agreement(_forms(utterance), heard)))

    def _reasons(self, utterance: Utterance) -> Iterator[str]:
        for limit in _limits(utterance.duration_seconds, utterance.quality, self.config):
            if limit.value is None:
                continue
            if limit.value < limit.low:
                yield f"{limit.figure.format(limit.value)} is below {limit.low:g}"
            elif limit.value > limit.high:
                yield f"{limit.figure.format(limit.value)} is above {limit.high:g}"


class _Limit(NamedTuple):
    figure: str
    value: float | None
    low: float
    high: float


def _limits(duration_seconds: float, quality: Quality, config: VerificationConfig) -> list[_Limit]:
    """In the order in which they are told: what is wrong with the signal explains what is wrong with the words."""
    signal, none = config.signal, 0.0
    return [
        _Limit("duration of {:.2f} s", duration_seconds, signal.min_duration_seconds, signal.max_duration_seconds),
        _Limit("silence of {:.2f} of the time", quality.silence_share, none, signal.max_silence_share),
        _Limit("clipping of {:.4f} of the samples", quality.clipped_share, none, signal.max_clipped_share),
        _Limit(
            "rate of {:.2f} words per second",
            quality.words_per_second,
            signal.min_words_per_second,
            signal.max_words_per_second,
        ),
        _Limit(
            "rate of {:.2f} characters per second",
            quality.characters_per_second,
            signal.min_characters_per_second,
            signal.max_characters_per_second,
        ),
        _Limit("phone distance {:.2f} of a term", quality.phone_distance, none, config.max_phone_distance),
        _Limit("WER {:.2f} of the words around the term", quality.rest_wer, none, config.max_rest_wer),
    ]


def _forms(utterance: Utterance) -> list[tuple[str, Sequence[str]]]:
    """The text and the spoken form, each with the terms as they stand there."""
    transcript = utterance.transcript
    assert transcript
    said = [form for term in terms_of(utterance) for form in (term.text, term.pronunciation) if form]
    return [(transcript.text, transcript.terms), (transcript.spoken, said)]
