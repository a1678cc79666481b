"""The stage that fills a slot with a sentence: the first of the written ones that passes every check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pipelines.transcripts.checks import problem
from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Draft, Style
from pipelines.transcripts.grammar import Grammar
from pipelines.transcripts.occurrences import occurrences
from pipelines.transcripts.spans import split_by_language
from pipelines.transcripts.splits import side_of_split, side_of_text
from pipelines.transcripts.styles import open_style
from pipelines.transcripts.verbalise import spoken_form
from rayapp.errors import RejectedError
from rayapp.records import Slot, Span, Term, Transcript, Utterance
from rayapp.stage import BatchStage, Resources
from rayapp.text.scripts import spaced


class WriteTranscript(BatchStage):
    """Draws sentences of the grammar, for each slot, until one passes the checks and belongs to the slot's split."""

    name = "transcript"
    version = 3
    resources = Resources(cpus=1.0)
    batch_size = 1

    def __init__(self, config: TranscriptsConfig) -> None:
        self.config = config

    def on_batch(self, utterances: Sequence[Utterance]) -> list[Utterance | Exception]:
        return [chosen(utterance, self._drawn(utterance.slot), self.config) for utterance in utterances]

    def _drawn(self, slot: Slot) -> Iterator[Transcript]:
        grammar = open_style(self.config, slot.style)
        assert isinstance(grammar, Grammar)
        rng = slot.rng("transcript")
        for _ in range(self.config.max_draws):
            yield grammar.write(slot.prompt, slot.term, rng, slot.companions)


def chosen(
    utterance: Utterance,
    candidates: Iterable[Transcript | Draft] | Exception,
    config: TranscriptsConfig,
    held_out: Sequence[Term] = (),
) -> Utterance | Exception:
    """The utterance with the first candidate that will do, or a `RejectedError` with what is wrong with the last.

    held_out: terms that no sentence of training or validation may have; a language model may think of one.
    """
    if isinstance(candidates, Exception):
        return candidates
    slot, style = utterance.slot, open_style(config, utterance.slot.style)
    side = side_of_split(slot.split)
    reason = "no sentence was written"
    for candidate in candidates:
        try:
            transcript = candidate if isinstance(candidate, Transcript) else _transcript(candidate, slot, style, config)
        except RejectedError as error:
            reason = str(error)
            continue
        if side_of_text(transcript.text) != side:
            reason = f"no sentence fell on the {side} side of the split"
            continue
        if side != "test" and any(True for term in held_out for _ in occurrences(transcript.text, term)):
            reason = "a held-out term occurs"
            continue
        wrong = problem(transcript.text, slot, style.language, config.checks)
        if wrong is None:
            return utterance.with_transcript(transcript)
        reason = wrong
    return RejectedError(reason)


def _transcript(draft: Draft, slot: Slot, style: Style, config: TranscriptsConfig) -> Transcript:
    """What a language model wrote, with its spoken form, and in spans where several voices say it."""
    terms = [slot.term, *slot.companions] if slot.term else []
    turns = tuple((role, spaced(text)) for role, text in draft.turns or (("", draft.written),))
    spans = tuple(span for role, text in turns for span in _spans(text, role, terms, style.language))
    several = len(spans) > 1
    return Transcript(
        text=" ".join(text for _, text in turns),
        spoken=" ".join(span.spoken for span in spans),
        terms=tuple(term.text for term in terms),
        language=style.language,
        generator=f"{config.generator}:{style.name}",
        spans=spans if several else (),
    )


def _spans(text: str, role: str, terms: Sequence[Term], language: str) -> Iterator[Span]:
    for span in split_by_language(text, text, language, terms, role):
        yield replace(span, spoken=spoken_form(span.text, span.language, terms))
