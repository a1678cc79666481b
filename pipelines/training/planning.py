"""Which utterances make up which step of which rank.

Everything follows from the seed and the number of the epoch: whoever asks works out the same plan. An epoch's
utterances are shuffled by *units*, stretches of one row group, so that a reader reads each row group once, and cut
into *windows*, whatever the number of ranks. Within a window the units are dealt to the ranks, as many utterances to
each, and every rank's are sorted by length and cut at the same places: the batches of a step have about the same
lengths and as many seconds, padding included, so that no rank waits for another, and none runs dry.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.int64]
    """Of utterances in an epoch's order."""
    Steps = list[list[Places]]
    """Of each step, the batch of each rank."""

_UNITS_PER_WINDOW = 16
"""At least: units are cut where row groups are long, so that a window holds speech of many kinds."""
_UNITS_PER_RANK = 8
"""At least, in a window, so that the ranks get alike shares."""
_LENGTH_JITTER = 0.02
"""Lengths are blurred by this share before they are sorted, so that others meet in the next epoch; as much of a batch
becomes padding."""
_UNIT_JITTER = 0.05
"""The same for the sizes of units, so that others share a rank."""
_HALVINGS = 8
"""Of the range in which the smallest sufficient batch is sought."""


@dataclass(frozen=True)
class PlanSettings:
    """How an epoch is cut into steps."""

    batch_seconds: float
    """Most seconds of audio in a rank's batch, padding included. One longer utterance is a batch of its own."""
    window: int = 4096
    """About how many utterances, over all ranks, are sorted by length together: the more, the less is padding. With
    2000 for each rank it stays under 5 %."""
    seed: int = 0
    quadratic_seconds: float | None = None
    """With it, an utterance takes d + d² / quadratic_seconds of `batch_seconds`, d being how long it lasts: the memory
    of full attention grows with the square."""
    shortest_first: bool = False
    """Whether the first epoch takes the steps of a window in the order of length. A new model finds out sooner from
    short sentences which sound belongs to which letter (SortaGrad, https://arxiv.org/abs/1512.02595)."""

    def cost(self, seconds: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """What utterances that last so long take of `batch_seconds`, each."""
        return seconds + seconds**2 / self.quadratic_seconds if self.quadratic_seconds else seconds


@dataclass(frozen=True)
class Position:
    """How far a run has got; it means the same only with the same sources and `PlanSettings`."""

    epoch: int = 0
    window: int = 0
    history: tuple[tuple[int, int], ...] = ()
    """Of the window: with so many ranks, so many steps were taken; then with so many others, …"""

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` and JSON made of one."""
        return cls(told["epoch"], told["window"], tuple((ranks, steps) for ranks, steps in told["history"]))

    def resumed(self, ranks: int) -> tuple[tuple[tuple[int, int], ...], int]:
        """What came before this number of ranks, and the steps that it took since."""
        if self.history and self.history[-1][0] == ranks:
            return self.history[:-1], self.history[-1][1]
        return self.history, 0

    def advanced(self, ranks: int) -> Position:
        """After one more step of the window."""
        before, taken = self.resumed(ranks)
        return Position(self.epoch, self.window, (*before, (ranks, taken + 1)))


class PlannedStep(NamedTuple):
    """What the ranks do at the same time."""

    batches: list[Places]
    """Of each rank; none is empty."""
    imbalance: float
    """By how much the seconds of the largest batch, padding included, exceed the mean of the ranks, as a share."""
    after: Position
    """Where the run stands once the step is taken."""
    epochs_done: float
    """Epochs learnt from by then, 2.5 in the middle of the third; by utterances. Schedules follow it: how many steps
    there are depends on the number of ranks."""


class EpochPlan:
    """The order of an epoch, and who takes what of it when."""

    def __init__(
        self,
        epoch: int,
        rows: NDArray[np.int64],
        groups: NDArray[np.int64],
        seconds: NDArray[np.floating[Any]],
        settings: PlanSettings,
    ) -> None:
        """rows: (utterances,) numbers of those that the epoch takes; one that is taken twice stands there twice.
        groups, seconds: (utterances,) the row group of each, and how long it lasts, more than 0.
        """
        self.epoch, self.settings = epoch, settings
        order, self._units = _shuffled(
            rows, groups, max(1, settings.window // _UNITS_PER_WINDOW), np.random.default_rng([2, settings.seed, epoch])
        )
        self.rows = rows[order]
        """(utterances,), in the epoch's order."""
        self.seconds = seconds[order].astype(np.float64)
        """(utterances,), in the epoch's order."""
        self.windows = windows_per_epoch(len(rows), settings)
        self._edges = _window_edges(self._units, self.windows)

    def steps(self, position: Position, ranks: int) -> Iterator[PlannedStep]:
        """Those from a position in this epoch to the end of its window. A window that has too few utterances left for
        the ranks is joined with the next; at the end of the epoch, some are drawn again instead.

        With as many ranks as took the last step these are the steps that it left; with others, new steps of the
        utterances that it left. The `after` of the last step is where the next steps begin.
        """
        before, taken = position.resumed(ranks)
        left, end = self._left(position.window, before, ranks)
        steps = self._cut(left, ranks, self._rng(position.window, before, ranks))
        done = int(self._edges[end]) - sum(len(batch) for step in steps[taken:] for batch in step)
        for number, batches in enumerate(steps[taken:], start=taken + 1):
            done += sum(map(len, batches))
            position = self._start(end) if number == len(steps) else position.advanced(ranks)
            padded = [self.seconds[batch].max() * len(batch) for batch in batches]
            imbalance = float(max(padded) / np.mean(padded)) - 1
            yield PlannedStep(batches, imbalance, position, self.epoch + done / len(self.rows))

    def next_start(self, position: Position, ranks: int) -> Position:
        """The `after` of the last step from a position."""
        before, _ = position.resumed(ranks)
        return self._start(self._left(position.window, before, ranks)[1])

    def _start(self, window: int) -> Position:
        return Position(self.epoch, window) if window < self.windows else Position(self.epoch + 1)

    def _left(self, window: int, history: Sequence[tuple[int, int]], ranks: int) -> tuple[Places, int]:
        """What a history leaves of a window for so many ranks, rising, and the window that comes after it."""
        left, end = np.arange(*self._edges[window : window + 2]), window + 1
        for number, (earlier, taken) in enumerate(history):
            left, end = self._enough(left, end, earlier)
            steps = self._cut(left, earlier, self._rng(window, history[:number], earlier))
            left = np.setdiff1d(left, np.concatenate([batch for step in steps[:taken] for batch in step]))
        return self._enough(left, end, ranks)

    def _enough(self, left: Places, end: int, ranks: int) -> tuple[Places, int]:
        """At least one utterance for each rank, now and in what comes after; and the window that comes after."""
        while end < self.windows and min(len(left), len(self.rows) - self._edges[end]) < ranks:
            left, end = np.concatenate([left, np.arange(*self._edges[end : end + 2])]), end + 1
        if missing := max(0, ranks - len(left)):
            again = self._rng(end, (), ranks).integers(len(self.rows), size=missing)
            left = np.sort(np.concatenate([left, again]))
        return left, end

    def _cut(self, places: Places, ranks: int, rng: np.random.Generator) -> Steps:
        """Into steps, in the order in which they are taken. There are at least as many places as ranks."""
        blurred = self.seconds[places] * rng.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER, len(places))
        falling = np.argsort(-blurred)
        owners = self._deal(places, ranks, rng)[falling]
        shares = [places[falling[owners == rank]] for rank in range(ranks)]
        longest = np.zeros((ranks, max(map(len, shares))))
        for line, share in zip(longest, shares, strict=True):
            line[: len(share)] = self.settings.cost(self.seconds[share])
        sizes = _even_sizes(longest.max(axis=0), self.settings.batch_seconds)
        if sizes[-1] == 1 and len(places) % ranks:  # not every rank has something for the last step
            sizes = [*sizes[:-2], sizes[-2] + 1]
        batches = [np.split(share, np.cumsum(sizes)[:-1]) for share in shares]
        steps = [list(step) for step in zip(*batches, strict=True)]
        if self.settings.shortest_first and self.epoch == 0:
            return steps[::-1]
        return [steps[number] for number in rng.permutation(len(steps))]

    def _deal(self, places: Places, ranks: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The rank that gets each place. All get as many, or one more; whole units, the largest first, go to whom has
        the fewest seconds.
        """
        units = _stretches(self._units[places], max(1, len(places) // (_UNITS_PER_RANK * ranks)))
        edges = np.searchsorted(units, np.arange(units[-1] + 2))
        sizes = np.bincount(units, weights=self.seconds[places])
        owners = np.empty(len(places), np.int64)
        room = [len(places) // ranks + (rank < len(places) % ranks) for rank in range(ranks)]
        loads = [(0.0, rank) for rank in range(ranks)]
        for unit in np.argsort(-sizes * rng.uniform(1 - _UNIT_JITTER, 1 + _UNIT_JITTER, len(sizes))):
            start, stop = edges[unit : unit + 2].tolist()
            while start < stop:
                load, rank = heapq.heappop(loads)
                taken = slice(start, min(stop, start + room[rank]))
                owners[taken] = rank
                room[rank] -= taken.stop - start
                if room[rank]:
                    heapq.heappush(loads, (load + float(self.seconds[places[taken]].sum()), rank))
                start = taken.stop
        return owners

    def _rng(self, window: int, history: Sequence[tuple[int, int]], ranks: int) -> np.random.Generator:
        numbers = [number for entry in history for number in entry]
        return np.random.default_rng([3, self.settings.seed, self.epoch, window, *numbers, ranks])


def windows_per_epoch(utterances: int, settings: PlanSettings) -> int:
    return max(1, round(utterances / settings.window))


def _shuffled(
    rows: NDArray[np.int64], groups: NDArray[np.int64], longest: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the rows, unit by unit, and the unit of each, rising from 0.

    A row that stands there again belongs to a unit of its own: all have been taken before one is taken again.
    """
    order = np.argsort(rows, kind="stable")
    again = np.arange(len(rows)) - np.searchsorted(rows[order], rows[order])
    order = order[np.argsort(again, kind="stable")]
    groups = np.sort(again) * (groups.max() + 1) + groups[order]
    units = _stretches(groups, longest)
    shuffled = rng.permutation(units[-1] + 1)[units]
    return order[np.argsort(shuffled, kind="stable")], np.sort(shuffled)


def _stretches(labels: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Numbers the stretches of equal neighbours, none longer than `longest`.

    >>> _stretches(np.array([7, 7, 7, 2, 2, 7]), 2).tolist()
    [0, 0, 1, 2, 2, 3]
    """
    starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    places = np.arange(len(labels)) - np.repeat(starts, np.diff(np.append(starts, len(labels))))
    return np.cumsum(places % longest == 0) - 1


def _window_edges(units: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where windows start, at starts of units, and the number of rows."""
    starts = np.flatnonzero(np.append(True, units[1:] != units[:-1]))
    nearest = np.searchsorted(starts, np.linspace(0, len(units), count, endpoint=False))
    return np.append(starts[nearest], len(units))


def _fill(costs: NDArray[np.float64], budget: float) -> list[int]:
    """Sizes of batches that take as much as fits, one after the other, and at least one.

    >>> _fill(np.array([5.0, 4.0, 4.0, 2.0, 1.0]), 8.0)
    [1, 2, 2]
    """
    sizes, start = [], 0
    while start < len(costs):
        some = costs[start : start + max(1, int(budget / costs[start]))]
        padded = np.maximum.accumulate(some) * np.arange(1, len(some) + 1)
        sizes.append(max(1, int(np.searchsorted(padded, budget, side="right"))))
        start += sizes[-1]
    return sizes


def _even_sizes(costs: NDArray[np.float64], budget: float) -> list[int]:
    """As many batches as `_fill` makes, the largest as small as it can be.

    >>> _even_sizes(np.array([2.0] * 9), 10.0)
    [5, 4]
    """
    count = len(_fill(costs, budget))
    low, high = min(budget, float(costs.sum()) / count), budget
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_fill(costs, middle)) == count else (middle, high)
    return _fill(costs, high)
