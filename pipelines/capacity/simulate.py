"""A cluster that makes speech, simulated event by event: stages, queues, autoscaling, lost nodes and their prices.

What the simulation takes for true, as `rayapp.execution` and `pipelines.rounds` have it:

- A round is planned by the driver, alone, and cut into bundles. All groups work at the same time; each worker takes a
  bundle, works on it for as long as an utterance takes on average, times how many there are, and passes it on whole.
  (Ray Data passes on what reaches 128 MB earlier: a real run fills its later groups somewhat sooner.)
- In front of each group but the first there is room for so many bundles; where it is full, the workers before it keep
  what they have finished, and wait.
- A worker waits for its node to boot, then loads. It takes CPUs and GPUs of its node, and of nothing else.
- A group whose workers have all loaded asks for as many again while more bundles wait than it has, up to its most; one
  without work for a while is given back, down to its fewest. Once nothing more will come, idle workers go at once.
  Nodes come when workers find no room, and go when they have had no worker for a while. (A real run has as many workers
  as its settings say, from the start: fewest and most are then the same.)
- A node that is interrupted or fails takes with it what its workers were doing: those bundles are done again, by
  whoever is free, and come out once. What was passed on is not lost. Losses come at random, without memory.
- A round ends when its last bundle does, and its workers with it; what was rejected makes the next round.

Where a run would have more bundles than can be simulated, a simulated one stands for several: it moves as one, but an
interruption costs only the one of them that was being worked on.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import groupby
from typing import Any

from simpy import Environment, Event

from pipelines.capacity.config import ScaleConfig
from pipelines.capacity.crew import Bundle, Crew, cut
from pipelines.capacity.fleet import Fleet, Node, places
from pipelines.capacity.outcome import Cost, GroupOutcome, NodesOutcome, Outcome
from pipelines.capacity.pool import Destination, Pool
from pipelines.capacity.queue import Queue
from rayapp.errors import UserError

_MOST_LOSSES = 3.0
"""Nodes that may be lost, on average, in the time that one bundle takes: it is then tried 20 times (e to the 3rd)."""


def simulate(crews: Sequence[Crew], config: ScaleConfig, rounds: Sequence[int]) -> Outcome:
    """Take rounds of so many slots each through the crews, in order. The same settings give the same outcome.

    Raises `UserError` for workers that fit on no node, for more of them than there can be nodes for, and for bundles
    that would be interrupted again and again.
    """
    for crew in crews:
        _require_room(crew, config)
    simulation = Simulation(crews, config)
    simulation.run(rounds)
    return simulation.outcome(rounds)


class Simulation:
    """The driver of the simulated run."""

    def __init__(self, crews: Sequence[Crew], config: ScaleConfig) -> None:
        self.env, self.config = Environment(), config
        self.fleet = Fleet(self.env, config, crews)
        self.sink = Sink(self.env)
        self.pools: list[Pool] = []
        destination: Destination = self.sink
        for crew in reversed(crews):
            destination = Pool(self.env, crew, self.fleet, destination)
            self.pools.insert(0, destination)
        self.wall_seconds = self.planning_seconds = 0.0
        self.bundles = 0

    def run(self, rounds: Sequence[int]) -> None:
        self.env.process(self._drive(rounds))
        self.env.run()  # until the last node has been given back
        assert all(node.gone for node in self.fleet.nodes)

    def _drive(self, rounds: Sequence[int]) -> Generator[Event, Any, None]:
        for slots in rounds:
            planning = slots / self.config.planned_per_second
            self.planning_seconds += planning
            yield self.env.timeout(planning)
            yield self._begin(slots)
            for pool in self.pools:
                pool.close()
        self.wall_seconds = self.env.now

    def _begin(self, slots: int) -> Event:
        """Start a round; what happens when it is over."""
        bundles = cut(slots, sum(pool.crew.max_workers for pool in self.pools))
        self.bundles += len(bundles)
        for pool in self.pools:
            _require_progress(bundles[0], pool.crew, self.config)
        first, *others = self.pools
        over = self.sink.expect(len(bundles))
        first.open(Queue(self.env, len(bundles), bundles=bundles))
        for pool in others:
            pool.open(Queue(self.env, len(bundles), pool.crew.queue * pool.crew.max_workers))
        self._require_fewest()
        return over

    def _require_fewest(self) -> None:
        """Raises `UserError` where the workers that there must be do not fit together."""
        if not self.fleet.waiting:
            return
        crew = self.fleet.waiting[0].crew
        sharing = [pool.crew for pool in self.pools if pool.crew.node == crew.node]
        raise UserError(
            f"{' + '.join(f'{each.min_workers} of {each.name}' for each in sharing)} workers (min_workers) do not fit "
            f"on {self.config.nodes[crew.node].max_nodes} nodes of {crew.node}: raise nodes.{crew.node}.max_nodes, or "
            "lower min_workers"
        )

    def outcome(self, rounds: Sequence[int]) -> Outcome:
        """What it came to."""
        redone = sum(pool.redone_cost for pool in self.pools)
        nodes = self.fleet.nodes
        working = sum(node.working for node in nodes)
        starting = sum(node.starting for node in nodes)
        idle = sum(node.idle for node in nodes)
        return Outcome(
            utterances=sum(rounds),
            rounds=len(rounds),
            bundles=self.bundles,
            wall_hours=self.wall_seconds / 3600,
            planning_hours=self.planning_seconds / 3600,
            cost=Cost(working + starting + idle, working - redone, redone, starting, idle),
            groups=[_group_outcome(pool, self.wall_seconds - self.planning_seconds) for pool in self.pools],
            nodes=[_nodes_outcome(kind, [node for node in nodes if node.kind == kind]) for kind in self.config.nodes],
        )


class Sink:
    """Where finished bundles end, each once."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.arrived: set[int] = set()
        self.expected = 0
        self.over = env.event()

    def expect(self, bundles: int) -> Event:
        """Begin a round of so many; what happens when all are here."""
        self.arrived, self.expected, self.over = set(), bundles, self.env.event()
        return self.over

    def bring(self, bundle: Bundle) -> None:
        assert bundle.number not in self.arrived
        self.arrived.add(bundle.number)
        if len(self.arrived) == self.expected:
            self.over.succeed()

    def withdraw(self, admitted: Event) -> None:
        raise AssertionError("there is always room")


def _require_room(crew: Crew, config: ScaleConfig) -> None:
    node = config.nodes[crew.node]
    if places(crew, node) < 1:
        raise UserError(
            f"a worker of {crew.name} wants {crew.cpus:g} CPUs and {crew.gpus:g} GPUs; a node of {crew.node} has "
            f"{node.cpus:g} and {node.gpus:g}: set groups.{crew.name}.node to another one, or correct nodes.{crew.node}"
        )


def _require_progress(bundle: Bundle, crew: Crew, config: ScaleConfig) -> None:
    utterances = bundle.utterances // bundle.parts
    hours = utterances * crew.seconds / 3600
    losses = config.nodes[crew.node].losses_per_hour
    if hours * losses > _MOST_LOSSES:
        raise UserError(
            f"a bundle of {utterances:,} utterances takes a worker of {crew.name} {hours:.1f} h, "
            f"and a node of {crew.node} is lost {losses:g} times an hour: it would hardly ever be finished. More "
            "workers make smaller bundles, fewer hours too; or take nodes that last"
        )


def _group_outcome(pool: Pool, seconds: float) -> GroupOutcome:
    """seconds: that the rounds took, without their planning."""
    loaded = pool.seconds["working"] + pool.seconds["starved"] + pool.seconds["blocked"]
    return GroupOutcome(
        name=pool.crew.name,
        seconds_per_utterance=pool.crew.seconds,
        measured=pool.crew.measured,
        most_workers=pool.most,
        mean_workers=loaded / seconds,
        utilisation=pool.seconds["working"] / loaded,
        starved=pool.seconds["starved"] / loaded,
        blocked=pool.seconds["blocked"] / loaded,
        worker_hours=pool.seconds["working"] / 3600,
        redone_hours=pool.redone_seconds / 3600,
        longest_queue=pool.longest_queue,
    )


def _nodes_outcome(kind: str, nodes: Sequence[Node]) -> NodesOutcome:
    changes = sorted([(node.asked, 1) for node in nodes] + [(node.ended, -1) for node in nodes])
    over_time: list[tuple[float, int]] = []
    count = 0
    for when, several in groupby(changes, key=lambda change: change[0]):
        count += sum(change for _, change in several)
        over_time.append((when / 3600, count))
    return NodesOutcome(
        kind=kind,
        most=max((count for _, count in over_time), default=0),
        hours=sum(node.ended - node.asked for node in nodes) / 3600,
        lost=sum(node.lost for node in nodes),
        cost=sum(node.starting + node.working + node.idle for node in nodes),
        over_time=over_time,
    )
