"""The embedded sentence writer: a template grammar, so that no language model has to be downloaded.

A pattern is a sentence with slots (`{dose}`); a slot is a list of alternatives, which may hold
slots themselves. `{term}` is where the lexicon's term goes. A list has `{companion}`s besides, for
further terms of the same category: lists are short, and teach a term without the sentence around it.
A dialogue's pattern has turns instead: sentences with slots, each with the role that says it.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from pipelines.transcripts.held_out import split_patterns
from pipelines.transcripts.spans import split_by_language
from rayapp.ids import evenly_by_category
from rayapp.records import Term, Transcript
from rayapp.text.scripts import LATIN_AT_HOME, spaced

_SLOT = re.compile(r"\{(\w+)\}")
TERM_SLOT, COMPANION_SLOT = "term", "companion"


@dataclass(frozen=True)
class Pattern:
    pattern_id: str
    text: str
    category: str | None = None
    """Category of the terms that fit at `{term}`; None where there is no term."""
    turns: tuple[tuple[str, str], ...] = ()
    """(role, text) of a dialogue's turns, whose texts make up `text`; else empty."""

    @property
    def companions(self) -> int:
        """How many further terms it takes."""
        return self.text.count(f"{{{COMPANION_SLOT}}}")


@dataclass(frozen=True)
class Grammar:
    name: str
    patterns: Mapping[str, Pattern]
    slots: Mapping[str, Sequence[str]]
    spoken: Mapping[str, str]
    language: str = "en"
    roles: tuple[str, ...] = ()
    """Who speaks in its dialogues; empty for sentences."""

    def write(
        self, pattern_id: str, term: Term | None, rng: np.random.Generator, companions: Sequence[Term] = ()
    ) -> Transcript:
        """One sentence or dialogue of a pattern, drawn at random; `companions` are as many as the pattern takes.

        >>> losartan = Term("losartan", category="drug")
        >>> load_grammar("clinical_en").write("start_drug_dose", losartan, np.random.default_rng(0)).terms
        ('losartan',)
        """
        pattern, further = self.patterns[pattern_id], iter(companions)
        roles, texts = zip(*(pattern.turns or (("", pattern.text),)), strict=True)
        sentences = [self._sentence(text, term, rng, further) for text in texts]
        terms = ([term] if term else []) + list(companions)
        spans = [
            span
            for role, (text, said) in zip(roles, sentences, strict=True)
            for span in split_by_language(text, said, self.language, terms, role)
        ]
        return Transcript(
            text=" ".join(text for text, _ in sentences),
            spoken=" ".join(said for _, said in sentences),
            terms=tuple(t.text for t in terms),
            language=self.language,
            generator=f"grammar:{self.name}",
            spans=tuple(spans) if len(spans) > 1 else (),
        )

    def _sentence(
        self, text: str, term: Term | None, rng: np.random.Generator, companions: Iterator[Term]
    ) -> tuple[str, str]:
        """A sentence as it is written and as it is spoken; takes from `companions` what it has room for."""
        frame = spaced(" ".join(self._expand(text, rng).split()))
        text, said = frame, self._say(frame)
        if term:
            text = frame.replace(f"{{{TERM_SLOT}}}", term.text)
            said = said.replace(f"{{{TERM_SLOT}}}", term.pronunciation or self._say(term.text))
        for companion in itertools.islice(companions, frame.count(f"{{{COMPANION_SLOT}}}")):
            text = text.replace(f"{{{COMPANION_SLOT}}}", companion.text, 1)
            said = said.replace(f"{{{COMPANION_SLOT}}}", companion.pronunciation or self._say(companion.text), 1)
        opens_in_capitals = self.language not in LATIN_AT_HOME
        return spaced(text[0].upper() + text[1:] if opens_in_capitals else text), spaced(said)

    def _expand(self, text: str, rng: np.random.Generator) -> str:
        def draw(match: re.Match[str]) -> str:
            if match[1] in (TERM_SLOT, COMPANION_SLOT):
                return match[0]
            alternatives = self.slots[match[1]]
            return self._expand(alternatives[int(rng.integers(len(alternatives)))], rng)

        return _SLOT.sub(draw, text)

    def _say(self, text: str) -> str:
        for written, said in self.spoken.items():
            text = re.sub(rf"\b{re.escape(written)}\b", said, text)
        return text

    def split_patterns(self, held_out_share: float) -> tuple[list[Pattern], list[Pattern]]:
        """Patterns to train on and patterns held out, by `held_out.split_patterns`."""
        return split_patterns(self.patterns.values(), held_out_share)

    def lists(self) -> list[Pattern]:
        """The patterns that take several terms: for training alone, since a test asks about one at a time."""
        return [p for p in self.patterns.values() if p.companions]


@cache
def load_grammar(name: str, max_patterns: int | None = None, max_alternatives: int | None = None) -> Grammar:
    """A packaged grammar, such as `clinical_en`, whole or a part of it (see `TranscriptsConfig`); lists always."""
    data = yaml.safe_load((files("pipelines.transcripts") / "grammar" / f"{name}.yaml").read_text("utf-8"))
    patterns = [_pattern(row) for row in data["patterns"]]
    of_lists = {slot for pattern in patterns if pattern.companions for slot in _SLOT.findall(pattern.text)}
    slots = {
        slot: alternatives if slot in of_lists else alternatives[:max_alternatives]  # else lists would hardly vary
        for slot, alternatives in data["slots"].items()
    }
    lists = [p for p in patterns if p.companions]
    shortest_first = evenly_by_category(
        [p for p in patterns if not p.companions],
        lambda p: p.category or "",
        lambda p: (_words(p.text, slots), p.text),
    )
    chosen = {p.pattern_id: p for p in shortest_first[:max_patterns] + lists}
    return Grammar(
        name, chosen, slots, data.get("spoken") or {}, data.get("language", "en"), tuple(data.get("roles", ()))
    )


def _pattern(row: Mapping[str, Any]) -> Pattern:
    turns = tuple((turn["role"], turn["text"]) for turn in row.get("turns", ()))
    return Pattern(row["id"], row.get("text") or " ".join(text for _, text in turns), row.get("category"), turns)


def _words(text: str, slots: Mapping[str, Sequence[str]]) -> float:
    """How many words a text has on average once its slots are filled."""
    fixed = len(_SLOT.sub(" ", text).split())
    filled = [statistics.mean(_words(a, slots) for a in slots.get(slot, ["term"])) for slot in _SLOT.findall(text)]
    return fixed + sum(filled)
