"""The embedded sentence writer: a template grammar, so that no language model has to be downloaded.

A pattern is a sentence with slots (`{dose}`); a slot is a list of alternatives, which may hold
slots themselves. `{term}` is where the lexicon's term goes. A list has `{companion}`s besides, for
further terms of the same category: lists are short, and teach a term without the sentence around it.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import yaml

from rayapp.ids import content_share, evenly_by_category
from rayapp.records import Term, Transcript

_SLOT = re.compile(r"\{(\w+)\}")
TERM_SLOT, COMPANION_SLOT = "term", "companion"


@dataclass(frozen=True)
class Pattern:
    pattern_id: str
    text: str
    category: str | None = None
    """Category of the terms that fit at `{term}`; None where there is no term."""

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

    def write(
        self, pattern_id: str, term: Term | None, rng: np.random.Generator, companions: Sequence[Term] = ()
    ) -> Transcript:
        """One sentence of a pattern, drawn at random; `companions` are as many as the pattern takes.

        >>> losartan = Term("losartan", category="drug")
        >>> load_grammar("clinical_en").write("start_drug_dose", losartan, np.random.default_rng(0)).terms
        ('losartan',)
        """
        frame = " ".join(self._expand(self.patterns[pattern_id].text, rng).split())
        text, said = frame, self._say(frame)
        if term:
            text = frame.replace(f"{{{TERM_SLOT}}}", term.text)
            said = said.replace(f"{{{TERM_SLOT}}}", term.pronunciation or self._say(term.text))
        for companion in companions:
            text = text.replace(f"{{{COMPANION_SLOT}}}", companion.text, 1)
            said = said.replace(f"{{{COMPANION_SLOT}}}", companion.pronunciation or self._say(companion.text), 1)
        return Transcript(
            text=text[0].upper() + text[1:],
            spoken=said,
            terms=tuple(t.text for t in ([term] if term else []) + list(companions)),
            language="en",
            generator=f"grammar:{self.name}",
        )

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
        """Patterns to train on and patterns held out, of each category its share, at least one; no lists.

        Decided by hash of the ID: adding a pattern hardly moves the others.
        """
        trained, held_out = [], []
        for category in sorted({p.category or "" for p in self.patterns.values()}):
            members = [p for p in self.patterns.values() if (p.category or "") == category and not p.companions]
            members.sort(key=lambda p: content_share("held out", p.pattern_id))
            count = max(1, round(len(members) * held_out_share)) if held_out_share else 0
            held_out += members[:count]
            trained += members[count:]
        return trained, held_out

    def lists(self) -> list[Pattern]:
        """The patterns that take several terms: for training alone, since a test asks about one at a time."""
        return [p for p in self.patterns.values() if p.companions]


@cache
def load_grammar(name: str, max_patterns: int | None = None, max_alternatives: int | None = None) -> Grammar:
    """`clinical_en` or `everyday_en`, whole or a part of it (see `TranscriptsConfig`); lists always."""
    data = yaml.safe_load((files("pipelines.transcripts") / "grammar" / f"{name}.yaml").read_text("utf-8"))
    patterns = [Pattern(row["id"], row["text"], row.get("category")) for row in data["patterns"]]
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
    return Grammar(name, chosen, slots, data.get("spoken") or {})


def _words(text: str, slots: Mapping[str, Sequence[str]]) -> float:
    """How many words a text has on average once its slots are filled."""
    fixed = len(_SLOT.sub(" ", text).split())
    filled = [statistics.mean(_words(a, slots) for a in slots.get(slot, ["term"])) for slot in _SLOT.findall(text)]
    return fixed + sum(filled)
