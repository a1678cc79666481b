"""Learning rates over a run, as shares of their peak.

A schedule knows no steps, only how much of the run is done: the number of ranks, and with it that of the steps, may
change when a run is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

ScheduleName: TypeAlias = Literal["one_cycle", "cosine", "linear", "constant", "inverse_sqrt"]

_START = 1 / 20
"""Share of the peak at which the warm-up begins."""
_END = 1 / 1000
"""Share of the peak at which one_cycle ends."""


@dataclass(frozen=True)
class Schedule:
    """How learning rates rise to their peaks, and what becomes of them after.

    >>> [round(Schedule("linear", warmup_share=0.2).factor(progress), 3) for progress in (0, 0.1, 0.2, 0.6, 1)]
    [0.05, 0.525, 1.0, 0.5, 0.0]
    """

    name: ScheduleName = "one_cycle"
    warmup_share: float = 0.15
    """Share of the run in which the rates rise, above 0 and below 1."""

    def factor(self, progress: float) -> float:
        """Share of the peak; progress: share of the run that was done before this step, 0 to 1."""
        if progress >= self.warmup_share:
            return _AFTER[self.name](min(progress, 1.0), self.warmup_share)
        risen = progress / self.warmup_share
        return _START + (1 - _START) * (_eased(risen) if self.name == "one_cycle" else risen)

    def apply(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the `lr` of each group; what it was when this was first called is the group's peak.

        A group with `starts_at` has 0 before that share of the run: weight decay would shrink what is frozen yet.
        """
        for group in optimizer.param_groups:
            peak = group.setdefault("initial_lr", group["lr"])
            group["lr"] = peak * self.factor(progress) if progress >= group.get("starts_at", 0.0) else 0.0


def _eased(share: float) -> float:
    """Half a cosine, from 0 to 1."""
    return (1 - math.cos(math.pi * share)) / 2


def _done(progress: float, warmup_share: float) -> float:
    """Share of what follows the warm-up."""
    return (progress - warmup_share) / (1 - warmup_share)


_AFTER: dict[ScheduleName, Callable[[float, float], float]] = {
    "one_cycle": lambda progress, warmup: _END + (1 - _END) * (1 - _eased(_done(progress, warmup))),
    "cosine": lambda progress, warmup: 1 - _eased(_done(progress, warmup)),
    "linear": lambda progress, warmup: 1 - _done(progress, warmup),
    "constant": lambda progress, warmup: 1.0,
    "inverse_sqrt": lambda progress, warmup: math.sqrt(warmup / progress),
}
"""What follows the warm-up; both arguments are shares of the run."""
