"""The stage that fills a slot with a sentence."""

from __future__ import annotations

from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.splits import side_of_split, side_of_text
from rayapp.errors import RejectedError
from rayapp.records import Utterance
from rayapp.stage import Resources, Stage


class WriteTranscript(Stage):
    """Draws sentences of the slot's pattern until one falls on the slot's side of the split."""

    name = "transcript"
    version = 2
    resources = Resources(cpus=0.1)

    def __init__(self, config: TranscriptsConfig) -> None:
        self.config = config

    def __call__(self, utterance: Utterance) -> Utterance:
        slot = utterance.slot
        grammar = load_grammar(slot.style, self.config.max_patterns, self.config.max_alternatives)
        rng = slot.rng("transcript")
        for _ in range(self.config.max_draws):
            transcript = grammar.write(slot.prompt, slot.term, rng, slot.companions)
            if side_of_text(transcript.text) == side_of_split(slot.split):
                return utterance.with_transcript(transcript)
        raise RejectedError(f"pattern {slot.prompt} gave no sentence for the {side_of_split(slot.split)} side")
