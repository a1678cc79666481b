"""How sure a figure is: 95 % intervals by bootstrap over utterances (Bisani and Ney 2004)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELLS = 2_000_000
"""Utterances times draws that are held at a time: 100,000 utterances in 2000 draws would take 1.6 GB."""
_Z = 1.959964


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Resampling:
    """Draws of as many utterances as there are, with replacement; percentile intervals.

    The same number of utterances and the same seed give the same draws. So two recognisers are compared on the same
    utterances: their common difficulty cancels out.
    """

    def __init__(self, utterances: int, draws: int, seed: int) -> None:
        self.utterances, self._draws, self._seed = utterances, draws, seed

    def fewer(self) -> Resampling:
        """A quarter of the draws, for what is costly or asked for often; its intervals are a little less certain."""
        return Resampling(self.utterances, -(-self._draws // 4), self._seed)

    def sums(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """columns: (utterances, columns). Returns the sum of each column in each draw: (draws, columns)."""
        return self.each(lambda weights: weights @ columns)

    def each(self, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        """statistic: from how often some draws have each utterance, (draws, utterances), to (draws, figures)."""
        return np.concatenate([statistic(weights) for weights in self._weights()])

    def _weights(self) -> Iterator[NDArray[np.float64]]:
        rng, n = np.random.default_rng(self._seed), self.utterances
        at_once = max(_CELLS // max(n, 1), 1)
        for start in range(0, self._draws, at_once):
            rows = min(at_once, self._draws - start)
            chosen = rng.integers(0, n, (rows, n)) + np.arange(rows)[:, None] * n
            yield np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def estimate(value: float, resampled: NDArray[np.float64]) -> Estimate | None:
    """resampled: (draws,); those that are not finite had nothing to count, and tell nothing."""
    finite = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(finite):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def wilson(right: int, count: int) -> Estimate | None:
    """A share of a few independent events (Wilson 1927): a bootstrap of 5 out of 5 would be sure of itself.

    >>> [round(x, 2) for x in wilson(5, 5)]
    [1.0, 0.57, 1.0]
    """
    if not count:
        return None
    share, z2 = right / count, _Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Estimate(share, max(float(middle - half), 0.0), min(float(middle + half), 1.0))
