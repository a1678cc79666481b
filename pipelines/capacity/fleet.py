"""The nodes of the simulated cluster: when they come and go, what they cost, and what for."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from simpy import Environment, Event

from pipelines.capacity.config import NodeConfig, ScaleConfig
from pipelines.capacity.crew import Crew

State: TypeAlias = Literal["starting", "working", "starved", "blocked"]
"""What a worker does: it loads; it works; it waits for a bundle; it waits for room to leave a bundle."""
_ROUNDING = 1e-9


class Tenant(Protocol):
    """A worker, as its node sees it."""

    crew: Crew

    def lose_node(self) -> None: ...


class Applicant(Protocol):
    """A group that asks for room for one more worker."""

    crew: Crew

    def settle(self, node: Node) -> Tenant:
        """Start a worker on a node."""
        ...

    @property
    def in_need(self) -> bool:
        """Whether it has fewer workers than it must have."""
        ...


def places(crew: Crew, config: NodeConfig) -> int:
    """How many of a crew's workers fit on an empty node."""
    wanted = ((config.cpus, crew.cpus), (config.gpus, crew.gpus))
    return int(min(there / each + _ROUNDING for there, each in wanted if each))


class Node:
    """One node, from when it is asked for until it is gone.

    Its rent goes to what its workers do, each with the largest share that it has of the node's CPUs or GPUs; where the
    shares add up to more than one they are scaled. What no worker has is idle.
    """

    def __init__(self, env: Environment, kind: str, config: NodeConfig) -> None:
        self.env, self.kind, self.config = env, kind, config
        self.up, self.gone, self.lost = env.event(), False, False
        self.asked = self.ended = self.empty_since = self._counted = env.now
        self.tenants: dict[Tenant, None] = {}
        self._cpus, self._gpus = config.cpus, config.gpus
        """That nobody has."""
        self.starting = self.working = self.idle = 0.0
        """What was spent on it so far, by what for."""
        self._shares = {"starting": 0.0, "working": 0.0, "starved": 0.0, "blocked": 0.0}

    def has_room(self, crew: Crew) -> bool:
        return crew.cpus <= self._cpus + _ROUNDING and crew.gpus <= self._gpus + _ROUNDING

    def add(self, tenant: Tenant) -> None:
        self.tenants[tenant] = None
        self._cpus -= tenant.crew.cpus
        self._gpus -= tenant.crew.gpus

    def remove(self, tenant: Tenant) -> None:
        del self.tenants[tenant]
        self._cpus += tenant.crew.cpus
        self._gpus += tenant.crew.gpus

    def share(self, crew: Crew) -> float:
        """Of the node, that a worker of the crew has."""
        return max(crew.cpus / self.config.cpus, crew.gpus / self.config.gpus if self.config.gpus else 0.0)

    def turn(self, share: float, before: State | None, after: State | None) -> None:
        """A worker with such a share does something else now; None where it was not here before, or leaves."""
        self.count()
        if before:
            self._shares[before] -= share
        if after:
            self._shares[after] += share

    def rent(self, share: float, seconds: float) -> float:
        """What so long in one worker costs, as long as the others are what they are now."""
        return seconds / 3600 * self.config.rent_per_hour * share / max(1.0, sum(self._shares.values()))

    def count(self) -> None:
        """Add what was spent since the last time."""
        seconds, self._counted = self.env.now - self._counted, self.env.now
        if not seconds:
            return
        if not self.up.triggered:
            self.starting += seconds / 3600 * self.config.rent_per_hour
            return
        starting = self.rent(self._shares["starting"], seconds)
        working = self.rent(self._shares["working"], seconds)
        self.starting += starting
        self.working += working
        self.idle += seconds / 3600 * self.config.rent_per_hour - starting - working


class Fleet:
    """All nodes: as many as are asked for, up to what there can be of each kind."""

    def __init__(self, env: Environment, config: ScaleConfig, crews: Sequence[Crew]) -> None:
        self.env, self.config, self.crews = env, config, crews
        self.nodes: list[Node] = []
        """All that there ever were."""
        self.waiting: list[Applicant] = []
        """Who asked and found no room."""
        self._open: dict[str, dict[Node, None]] = {kind: {} for kind in config.nodes}
        """Those that have room for a worker of one crew or another."""
        self._there = dict.fromkeys(config.nodes, 0)
        self._random = random.Random(config.seed)

    def request(self, applicant: Applicant) -> None:
        """Room for one more worker, as soon as there is some."""
        if not self._place(applicant):
            self.waiting.append(applicant)

    def withdraw(self, applicant: Applicant) -> int:
        """Forget what it asked for and did not get; returns for how many workers that was."""
        before = len(self.waiting)
        self.waiting = [each for each in self.waiting if each is not applicant]
        return before - len(self.waiting)

    @property
    def idle_seconds(self) -> float:
        return self.config.idle_minutes * 60

    def leave(self, node: Node, tenant: Tenant) -> None:
        """A worker has ended."""
        node.remove(tenant)
        if node.gone:
            return
        self._open[node.kind][node] = None
        self._place_waiting()
        if not node.tenants:
            node.empty_since = self.env.now
            self.env.process(self._give_back_if_idle(node))

    def _place_waiting(self) -> None:
        """Groups that have too few workers to go on come first, or all might wait for one another."""
        self.waiting.sort(key=lambda applicant: not applicant.in_need)
        self.waiting = [applicant for applicant in self.waiting if not self._place(applicant)]

    def _place(self, applicant: Applicant) -> bool:
        kind = applicant.crew.node
        node = next((node for node in self._open[kind] if node.has_room(applicant.crew)), None) or self._launch(kind)
        if not node:
            return False
        node.add(applicant.settle(node))
        if not any(node.has_room(crew) for crew in self.crews if crew.node == kind):
            del self._open[kind][node]
        return True

    def _launch(self, kind: str) -> Node | None:
        config = self.config.nodes[kind]
        if self._there[kind] >= config.max_nodes:
            return None
        node = Node(self.env, kind, config)
        self.nodes.append(node)
        self._open[kind][node] = None
        self._there[kind] += 1
        self.env.process(self._live(node))
        return node

    def _live(self, node: Node) -> Generator[Event, Any, None]:
        yield self.env.timeout(node.config.boot_minutes * 60)
        if node.gone:
            return
        node.count()
        node.up.succeed()
        if not node.config.losses_per_hour:
            return
        yield self.env.timeout(self._random.expovariate(node.config.losses_per_hour / 3600))
        if not node.gone:
            node.lost = True
            self._end(node)
            for tenant in list(node.tenants):
                tenant.lose_node()

    def _give_back_if_idle(self, node: Node) -> Generator[Event, Any, None]:
        since = node.empty_since
        yield self.env.timeout(self.idle_seconds)
        if not (node.gone or node.tenants) and node.empty_since == since:
            self._end(node)

    def _end(self, node: Node) -> None:
        node.count()
        node.gone, node.ended = True, self.env.now
        self._open[node.kind].pop(node, None)
        self._there[node.kind] -= 1
        self._place_waiting()
