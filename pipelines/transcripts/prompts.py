"""What a language model is asked: a style as a system message, a request and the scenarios to write from.

A scenario plays the part of a grammar's sentence pattern: a plan gives each slot one, and whole scenarios are
held out of training. `{term}`, `{category}`, `{scenario}` and `{candidates}` in the request are filled in from the
slot; a scenario that lists several terms has `{companion}`s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from pipelines.transcripts.grammar import COMPANION_SLOT, Pattern
from pipelines.transcripts.held_out import split_patterns
from rayapp.records import Slot

Message = dict[str, str]
"""Of a chat: `role` and `content`."""
SENTENCES, DIALOGUES = "sentences", "dialogues"
"""The one key of an answer: with whole sentences, or with dialogues in turns."""


@dataclass(frozen=True)
class PromptSet:
    """A style that a language model writes in."""

    name: str
    language: str
    system: str
    request: str
    patterns: Mapping[str, Pattern]
    roles: tuple[str, ...] = ()

    def messages(self, slot: Slot, candidates: int) -> list[Message]:
        """The chat that asks for `candidates` sentences or dialogues for a slot.

        Raises `KeyError` for a slot whose prompt is of another style.
        """
        scenario = self.patterns[slot.prompt].text
        for companion in slot.companions:
            scenario = scenario.replace(f"{{{COMPANION_SLOT}}}", companion.text, 1)
        request = self.request.format(
            term=slot.term.text if slot.term else "",
            category=slot.term.category if slot.term else "",
            scenario=scenario,
            candidates=candidates,
        )
        return [
            {"role": "system", "content": self.system.strip()},
            {"role": "user", "content": f"{request.strip()}\n\n{self._format()}"},
        ]

    def schema(self, candidates: int) -> dict[str, Any]:
        """JSON schema of the answer: for servers and engines that can hold a model to it."""
        text: dict[str, Any] = {"type": "string"}
        turn = _object({"role": {"type": "string", "enum": list(self.roles)}, "text": text})
        dialogue = {"type": "array", "items": turn, "minItems": 2, "maxItems": 8}
        key, item = (DIALOGUES, dialogue) if self.roles else (SENTENCES, text)
        return _object({key: {"type": "array", "items": item, "minItems": 1, "maxItems": candidates}})

    def _format(self) -> str:
        turns = [{"role": role, "text": "…"} for role in self.roles]
        example = {DIALOGUES: [[*turns, "…"], "…"]} if self.roles else {SENTENCES: ["…", "…"]}
        return f"Answer with JSON alone, in this form: {json.dumps(example, ensure_ascii=False)}"

    def split_patterns(self, held_out_share: float) -> tuple[list[Pattern], list[Pattern]]:
        """Scenarios to train on and scenarios held out; see `held_out.split_patterns`."""
        return split_patterns(self.patterns.values(), held_out_share)

    def lists(self) -> list[Pattern]:
        """The scenarios that take several terms."""
        return [p for p in self.patterns.values() if p.companions]


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


@cache
def load_prompts(name: str) -> PromptSet:
    """A style of the folder `prompts`.

    >>> load_prompts("consultation_en").roles
    ('clinician', 'patient')
    """
    data = yaml.safe_load((files("pipelines.transcripts") / "prompts" / f"{name}.yaml").read_text("utf-8"))
    scenarios = [Pattern(row["id"], row["text"], row.get("category")) for row in data["scenarios"]]
    return PromptSet(
        name=name,
        language=data["language"],
        system=data["system"],
        request=data["request"],
        patterns={scenario.pattern_id: scenario for scenario in scenarios},
        roles=tuple(data.get("roles", ())),
    )
