"""Reading what a language model answered: JSON where it kept to the form, and what can be saved where it did not.

Models wrap JSON into talk and code fences, are cut off in the middle, or answer with a plain list. All of that is
read; what holds no sentence at all is rejected.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic_core import from_json

from pipelines.transcripts.generator import Draft
from rayapp.errors import RejectedError

_JSON_START = re.compile(r'\{\s*"|\[\s*["\[{]')
_TRIES = 5
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.):]|\(\d{1,3}\))\s+(?=\S)")  # `2.5 mg` and `5 mg` are no bullets
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "「": "」"}


def parse_answer(answer: str, roles: Sequence[str] = ()) -> list[Draft]:
    """The sentences of an answer, or its dialogues where the style has `roles`; in order, each once.

    Raises `RejectedError` when there is none.

    >>> [draft.written for draft in parse_answer('Sure! {"sentences": ["Start 5 mg.", "Stop it.", "And th')]
    ['Start 5 mg.', 'Stop it.']
    >>> parse_answer("Doctor: How are you?\\nPatient: Fine.", ("doctor", "patient"))[0].turns
    (('doctor', 'How are you?'), ('patient', 'Fine.'))
    """
    text = answer.encode(errors="ignore").decode()  # halves of emoji have no UTF-8, and nothing could store them
    text = text.rpartition("</think>")[2]  # what a reasoning model thought comes before it
    if not text.strip():
        raise RejectedError("the answer is empty")
    readings = _dialogues if roles else _sentences
    drafts = list(dict.fromkeys(readings(text, roles)))
    if not drafts:
        raise RejectedError(f"the answer holds no {'dialogue' if roles else 'sentence'}")
    return drafts


def _sentences(text: str, roles: Sequence[str]) -> Iterator[Draft]:
    found = next(filter(None, (list(_strings(value)) for value in _json_values(text))), None)
    if not found:
        found = [_BULLET.sub("", line) for line in text.splitlines() if _BULLET.match(line)]
    yield from (Draft(sentence) for sentence in map(_clean, found) if sentence)


def _dialogues(text: str, roles: Sequence[str]) -> Iterator[Draft]:
    found = next(filter(None, (list(_turn_lists(value)) for value in _json_values(text))), None)
    for turns in found or _plain_dialogues(text, roles):
        known = [(_role(role, roles), _clean(said)) for role, said in turns]
        if len(known) > 1 and all(role and said for role, said in known):
            yield Draft(" ".join(said for _, said in known), tuple(known))


def _json_values(text: str) -> Iterator[Any]:
    """The first few JSON values that the text holds, the last one perhaps cut off."""
    for match in itertools.islice(_JSON_START.finditer(text), _TRIES):
        with contextlib.suppress(ValueError):
            yield from_json(text[match.start() :], allow_partial=True)  # which also ignores what comes after


def _strings(value: Any) -> Iterator[str]:
    """The sentences of `{"sentences": ["…"]}`, of a bare list, or of a list of `{"text": "…"}`."""
    for item in _items(value):
        if isinstance(item, dict):
            item = next((entry for entry in item.values() if isinstance(entry, str)), None)
        if isinstance(item, str):
            yield item


def _turn_lists(value: Any) -> Iterator[list[tuple[str, str]]]:
    """The dialogues of `{"dialogues": [[{"role": "…", "text": "…"}]]}`, of a bare list, or a single one."""
    items = _items(value)
    if items and all(isinstance(item, dict) and "role" in item for item in items):
        items = [items]
    for item in items:
        turns = _items(item)
        if turns and all(isinstance(turn, dict) for turn in turns):
            yield [(str(turn.get("role", "")), str(turn.get("text", ""))) for turn in turns]


def _items(value: Any) -> list[Any]:
    """A list, or the first list that an object holds."""
    if isinstance(value, dict):
        value = next((entry for entry in value.values() if isinstance(entry, list)), [])
    return value if isinstance(value, list) else []


def _plain_dialogues(text: str, roles: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """Lines such as `Clinician: Good morning.`; any other line ends a dialogue."""
    named = re.compile(rf"^[\s*_-]*({'|'.join(map(re.escape, roles))})[*_]*\s*[::][*_]*\s*(.+)$", re.IGNORECASE)
    turns: list[tuple[str, str]] = []
    for line in [*text.splitlines(), ""]:
        match = named.match(line)
        if match:
            turns.append((match[1], match[2]))
        elif turns:
            yield turns
            turns = []


def _role(name: str, roles: Iterable[str]) -> str:
    return next((role for role in roles if role.casefold() == name.strip().casefold()), "")


def _clean(text: str) -> str:
    """In one line, without bold type or quotes around the whole."""
    text = " ".join(text.replace("**", "").split())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
