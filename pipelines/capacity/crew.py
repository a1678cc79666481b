"""What the simulation takes: groups of stages as crews of workers, and rounds cut into bundles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from rayapp.execution import bundle_count
from rayapp.plan import PIECE_ROWS

_MOST_BUNDLES = 20_000
"""Of a round that are simulated; where a run has more, each of these stands for several."""


@dataclass(frozen=True)
class Crew:
    """A group of stages, with the workers that it may have."""

    name: str
    node: str
    """Kind of node that its workers run on."""
    cpus: float
    gpus: float
    """Of each worker, as the CPUs."""
    seconds: float
    """That one worker is busy with an utterance, on average."""
    min_workers: int
    max_workers: int
    load_seconds: float = 0.0
    queue: int = 2
    """Bundles that may wait in front of each of `max_workers`."""
    measured: bool = True
    """Whether `seconds` is; else it was assumed."""


@dataclass(eq=False, slots=True)
class Bundle:
    """Utterances that go from group to group together."""

    number: int
    utterances: int
    parts: int = 1
    """Bundles of the run that it stands for: an interruption costs the one that was being worked on."""
    done: float = 0.0
    """Share of the work in the present group that was finished before an interruption."""


def cut(slots: int, workers: int) -> list[Bundle]:
    """A round's bundles, as `rayapp.execution` cuts it for so many workers; larger ones where they would be too many.

    >>> [bundle.utterances for bundle in cut(100, workers=4)]
    [32, 32, 32, 4]
    """
    pieces = math.ceil(slots / PIECE_ROWS)
    wanted = bundle_count(pieces, workers)
    count = min(wanted, _MOST_BUNDLES)
    edges = [min(pieces * number // count * PIECE_ROWS, slots) for number in range(count + 1)]
    parts = math.ceil(wanted / count)
    return [Bundle(number, last - first, parts) for number, (first, last) in enumerate(pairwise(edges))]
