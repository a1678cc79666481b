"""Shares with a 95 % interval, and the difference of two that were measured on the same utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Estimate(NamedTuple):
    """A share, with the 95 % interval of a bootstrap over utterances."""

    value: float
    low: float
    high: float


def estimate(numerator: NDArray[np.int64], denominator: NDArray[np.int64], samples: int, seed: int) -> Estimate | None:
    """A ratio of sums with its interval; None where there is nothing to count.

    Percentile bootstrap over utterances (Bisani and Ney 2004).
    """
    if not denominator.sum():
        return None
    resampled = _resampled(numerator, denominator, samples, seed)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(numerator.sum() / denominator.sum()), float(low), float(high))


def paired_difference(
    before: tuple[NDArray[np.int64], NDArray[np.int64]],
    after: tuple[NDArray[np.int64], NDArray[np.int64]],
    samples: int,
    seed: int,
) -> Estimate | None:
    """after - before, resampling the same utterances for both: their common difficulty cancels out."""
    if not before[1].sum() or not after[1].sum():
        return None
    difference = _resampled(*after, samples, seed) - _resampled(*before, samples, seed)
    low, high = np.percentile(difference, [2.5, 97.5])
    value = after[0].sum() / after[1].sum() - before[0].sum() / before[1].sum()
    return Estimate(float(value), float(low), float(high))


def _resampled(
    numerator: NDArray[np.int64], denominator: NDArray[np.int64], samples: int, seed: int
) -> NDArray[np.float64]:
    """The ratio in each resample, (samples,). The same seed and length draw the same utterances."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(numerator), np.full(len(numerator), 1 / len(numerator)), size=samples)
    return (weights @ numerator) / np.maximum(weights @ denominator, 1)
