"""Which sentence patterns are never trained on, so that a test can tell whether unseen ones are understood."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rayapp.ids import content_share

if TYPE_CHECKING:
    from pipelines.transcripts.grammar import Pattern


def split_patterns(patterns: Iterable[Pattern], held_out_share: float) -> tuple[list[Pattern], list[Pattern]]:
    """Patterns to train on and patterns held out, of each category its share, at least one; no lists.

    Decided by hash of the ID: adding a pattern hardly moves the others.
    """
    patterns = list(patterns)
    trained: list[Pattern] = []
    held_out: list[Pattern] = []
    for category in sorted({p.category or "" for p in patterns}):
        members = [p for p in patterns if (p.category or "") == category and not p.companions]
        members.sort(key=lambda p: content_share("held out", p.pattern_id))
        count = max(1, round(len(members) * held_out_share)) if held_out_share else 0
        held_out += members[:count]
        trained += members[count:]
    return trained, held_out
