"""What a simulated run comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What the nodes cost, by what they were doing; in the currency of the prices."""

    total: float
    working: float
    redone: float
    """Work that was lost with a node."""
    starting: float
    """Nodes that boot, and workers that load."""
    idle: float
    """Workers that wait, and what no worker has of a node."""


@dataclass(frozen=True)
class GroupOutcome:
    """How a group fared."""

    name: str
    seconds_per_utterance: float
    measured: bool
    """Else that was assumed."""
    most_workers: int
    """At a time."""
    mean_workers: float
    """That had loaded, from when the first round had been planned to the end, without later planning."""
    utilisation: float
    """Share of its workers' time, from when they had loaded, in which they worked."""
    starved: float
    """Share in which they waited for a bundle."""
    blocked: float
    """Share in which they waited for room to leave one."""
    worker_hours: float
    """In which they worked."""
    redone_hours: float
    """Of those, what was lost with nodes."""
    longest_queue: int
    """Bundles that waited in front of it; of the first group, the whole plan."""


@dataclass(frozen=True)
class NodesOutcome:
    """The nodes of one kind."""

    kind: str
    most: int
    """At a time."""
    hours: float
    """Paid for, all added up."""
    lost: int
    """Interrupted or failed."""
    cost: float
    over_time: Sequence[tuple[float, int]]
    """From which hour on there were how many, booting or up."""

    def at(self, hour: float) -> int:
        """How many there were."""
        return next((count for since, count in reversed(self.over_time) if since <= hour), 0)


@dataclass(frozen=True)
class Outcome:
    """A run, simulated to its end."""

    utterances: int
    """Slots that were filled, over all rounds."""
    rounds: int
    bundles: int
    """That were simulated, over all rounds."""
    wall_hours: float
    planning_hours: float
    """Of these, in which the driver plans a round and nothing else goes on."""
    cost: Cost
    groups: Sequence[GroupOutcome]
    nodes: Sequence[NodesOutcome]
