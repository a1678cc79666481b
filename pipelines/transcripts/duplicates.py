"""Which sentences of a run say what others say already: decided over the whole run, whatever order they came in."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence, Set

from pipelines.transcripts.config import ChecksConfig
from rayapp.text.scripts import words

_PERMUTATIONS = 128
_MISSES_COUNT = (0.05, 0.95)
"""How LSH weighs chance neighbours against missed ones: the former are only looked at in vain."""

Row = tuple[str, str, str, str]
"""(slot_id, style, pattern, text)."""


def find_repeats(rows: Iterable[Row], config: ChecksConfig) -> dict[str, str]:
    """slot_id → reason of those to set aside.

    Of copies the one with the lowest slot_id stays; then, of each pattern, the lowest slot_ids up to its share of the
    style's sentences that are left, rounded up.

    >>> rows = [("b", "s", "p", "Stop it."), ("a", "s", "p", "stop it"), ("c", "s", "p", "Go on.")]
    >>> find_repeats(rows, ChecksConfig(max_near_duplicates=1))
    {'b': 'a copy of another sentence'}
    """
    ordered = sorted(rows)
    reasons: dict[str, str] = {}
    if config.max_near_duplicates is not None:
        reasons = _copies(ordered, config.max_near_duplicates)
    if config.max_pattern_share is not None:
        left = [row for row in ordered if row[0] not in reasons]
        reasons |= _above_share(left, config.max_pattern_share)
    return reasons


def _copies(rows: Sequence[Row], most_shared: float) -> dict[str, str]:
    reasons: dict[str, str] = {}
    seen: set[str] = set()
    neighbours = None if most_shared >= 1 else _Neighbours(most_shared)
    for slot_id, _, _, text in rows:
        said = [word.casefold() for word in words(text)]
        normalised = " ".join(said)
        if normalised in seen:
            reasons[slot_id] = "a copy of another sentence"
        elif neighbours and not neighbours.add_unless_near(said):
            reasons[slot_id] = "nearly a copy of another sentence"
        seen.add(normalised)
    return reasons


class _Neighbours:
    """The sentences that stay. Those that may be near another one are found by MinHash LSH, then compared in full."""

    def __init__(self, most_shared: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self.most_shared = most_shared
        self.empty = MinHash(num_perm=_PERMUTATIONS)
        self.index = MinHashLSH(most_shared, num_perm=_PERMUTATIONS, weights=_MISSES_COUNT)
        self.kept: list[Sequence[str]] = []

    def add_unless_near(self, said: Sequence[str]) -> bool:
        """Whether the sentence was far enough from all others; then it stays."""
        pairs = _pairs(said)
        sketch = self.empty.copy()
        sketch.update_batch([" ".join(pair).encode() for pair in sorted(pairs)])
        if any(jaccard(pairs, _pairs(self.kept[other])) > self.most_shared for other in self.index.query(sketch)):
            return False
        self.index.insert(len(self.kept), sketch)
        self.kept.append(said)
        return True


def _pairs(said: Sequence[str]) -> set[tuple[str, ...]]:
    """Each two neighbouring words; a lone word stands for itself."""
    return set(itertools.pairwise(said)) if len(said) > 1 else {tuple(said)}


def jaccard(one: Set[object], other: Set[object]) -> float:
    """What two sets share, of all that they have.

    >>> jaccard({1, 2, 3}, {2, 3, 4})
    0.5
    """
    return len(one & other) / len(one | other)


def _above_share(rows: Sequence[Row], most: float) -> dict[str, str]:
    of_style = Counter(style for _, style, _, _ in rows)
    taken: Counter[tuple[str, str]] = Counter()
    reasons = {}
    for slot_id, style, pattern, _ in rows:
        if taken[style, pattern] < most * of_style[style]:
            taken[style, pattern] += 1
        else:
            reasons[slot_id] = f"its pattern has more than {most:g} of its style's sentences"
    return reasons
