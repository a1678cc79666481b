"""The stage that speaks a transcript in the voices that its slot drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipelines.speech.assemble import assemble, level
from pipelines.speech.cast import OTHER_SYNTHESISER, candidates
from pipelines.speech.config import SpeechConfig
from pipelines.speech.engine import Line, Speech, SpeechEngine
from pipelines.speech.words import written_words
from rayapp.errors import RejectedError
from rayapp.records import SAMPLE_RATE_HZ, Span, Term, Utterance, Voice
from rayapp.stage import BatchStage, Resources

_SHORTEST_SECONDS = 0.3
_SILENT = 1e-3


def _espeak(_config: SpeechConfig) -> SpeechEngine:
    from pipelines.speech.espeak import EspeakEngine

    return EspeakEngine()


def _coqui(config: SpeechConfig) -> SpeechEngine:
    from pipelines.speech.coqui.engine import CoquiEngine

    return CoquiEngine(config.coqui)


ENGINES: dict[str, Callable[[SpeechConfig], SpeechEngine]] = {"espeak": _espeak, "coqui": _coqui}


class Speak(BatchStage):
    """Speaks transcripts, each of their spans in its voice, and puts the spans together."""

    name = "speech"
    version = 3
    resources = Resources(cpus=1.0)

    def __init__(self, config: SpeechConfig) -> None:
        self.config = config
        self.batch_size = config.coqui.batch_size if config.engine == "coqui" else 1
        self.engines: dict[str, SpeechEngine] = {}

    def on_batch(self, utterances: Sequence[Utterance]) -> Sequence[Utterance | Exception]:
        spans = [_spans(utterance) for utterance in utterances]
        lines = [
            Line(span.spoken, utterance.slot.voice_for(span.role, span.language))
            for utterance, parts in zip(utterances, spans, strict=True)
            for span in parts
        ]
        said = iter(self._say(lines))
        outcomes: list[Utterance | Exception] = []
        for utterance, parts in zip(utterances, spans, strict=True):
            speeches = [next(said) for _ in parts]
            try:
                outcomes.append(self._joined(utterance, parts, speeches))
            except RejectedError as error:
                outcomes.append(error)
        return outcomes

    def _say(self, lines: Sequence[Line]) -> list[Speech | Exception]:
        said: dict[int, Speech | Exception] = {}
        for name in sorted({line.voice.engine for line in lines}):
            indices = [index for index, line in enumerate(lines) if line.voice.engine == name]
            if name not in self.engines:
                self.engines[name] = ENGINES[name](self.config)
            said |= dict(zip(indices, self.engines[name].speak([lines[i] for i in indices]), strict=True))
        return [said[index] for index in range(len(lines))]

    def _joined(self, utterance: Utterance, spans: Sequence[Span], said: Sequence[Speech | Exception]) -> Utterance:
        slot = utterance.slot
        voices = [slot.voice_for(span.role, span.language) for span in spans]
        heard = [_checked(speech, voice) for speech, voice in zip(said, voices, strict=True)]
        if sum(len(speech.audio) for speech in heard) < _SHORTEST_SECONDS * SAMPLE_RATE_HZ:
            raise RejectedError(f"voice {voices[0].name} said nothing")
        if len(spans) == 1:
            (speech,) = heard
            words = written_words(spans[0].text, speech.words)
            spoken = utterance.with_audio(level(speech.audio)).with_times(speech.phonemes, words)
        else:
            whole = assemble(spans, voices, heard, self.config.turns, slot.rng("turns"))
            spoken = utterance.with_audio(whole.audio).with_times(whole.phonemes, whole.words, whole.turns)
        cast = [{"engine": v.engine, "voice": v.name, "rate_wpm": v.rate_wpm, "pitch": v.pitch} for v in slot.cast]
        return spoken.with_step(self.name, self.version, **cast[0], others=cast[1:])


def _spans(utterance: Utterance) -> Sequence[Span]:
    transcript = utterance.transcript
    assert transcript
    return transcript.spans or (Span(transcript.text, transcript.spoken, transcript.language),)


def _checked(speech: Speech | Exception, voice: Voice) -> Speech:
    """Raises `RejectedError` for what cannot be used."""
    if isinstance(speech, Exception):
        raise speech
    if not len(speech.audio):
        raise RejectedError(f"voice {voice.name} said nothing")
    if not np.isfinite(speech.audio).all() or np.abs(speech.audio).max() < _SILENT:
        raise RejectedError(f"voice {voice.name} is silent")
    return speech


def check_terms(config: SpeechConfig, terms: Sequence[Term]) -> None:
    """Raises `UserError` that names each term for which the voice finds nothing to say."""
    engine = ENGINES[config.engine](config)
    for language in sorted({term.language for term in terms}):
        engine.check_pronounceable([t.pronunciation or t.text for t in terms if t.language == language], language)


def check_voices(config: SpeechConfig) -> None:
    """Raises `UserError` that names each voice that its engine does not have."""
    names: dict[str, set[str]] = {}
    for split in ("train", "validation", "test", OTHER_SYNTHESISER):
        for voice in candidates(config, split):
            names.setdefault(voice.engine, set()).add(voice.name)
    for engine, voices in names.items():
        ENGINES[engine](config).check_voices(sorted(voices))
