"""The workers of one group in the simulated cluster, and the life of each."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

from simpy import Environment, Event, Interrupt

from pipelines.capacity.crew import Bundle, Crew
from pipelines.capacity.fleet import Fleet, Node, State
from pipelines.capacity.queue import Queue

_NODE_LOST, _ROUND_OVER = "node lost", "round over"


class Destination(Protocol):
    """Where finished bundles go."""

    def bring(self, bundle: Bundle) -> Event | None:
        """Leave one there; None where there is room, else what happens when there is."""
        ...

    def withdraw(self, admitted: Event) -> None:
        """Wait for room no longer."""
        ...


class Pool:
    """The workers of a group: more are asked for while bundles wait, and idle ones are given back."""

    def __init__(self, env: Environment, crew: Crew, fleet: Fleet, destination: Destination) -> None:
        self.env, self.crew, self.fleet, self.destination = env, crew, fleet, destination
        self.queue = Queue(env, 0)
        self.workers: list[Worker] = []
        """That have a place on a node."""
        self.asked = self.loaded = 0
        """Those, and those that wait for a place; and those of them that have loaded."""
        self.most = self.longest_queue = 0
        self.seconds: dict[State, float] = {"starting": 0.0, "working": 0.0, "starved": 0.0, "blocked": 0.0}
        """Of all workers, by what they did."""
        self.redone_seconds = self.redone_cost = 0.0
        """Of the work that was lost with nodes."""

    def open(self, queue: Queue) -> None:
        """Begin a round with the workers that must be there."""
        self.queue = queue
        for _ in range(self.crew.min_workers):
            self._ask()

    def close(self) -> None:
        """End a round: whoever is left ends."""
        self.longest_queue = max(self.longest_queue, self.queue.longest)
        self.asked -= self.fleet.withdraw(self)
        for worker in self.workers:
            worker.process.interrupt(_ROUND_OVER)

    def bring(self, bundle: Bundle) -> Event | None:
        admitted = self.queue.bring(bundle)
        self.grow()
        return admitted

    def withdraw(self, admitted: Event) -> None:
        self.queue.withdraw(admitted)

    def grow(self) -> None:
        """Ask for as many workers as there are, where more bundles wait than that and none is on its way."""
        if self.loaded == self.asked < self.queue.backlog:
            for _ in range(min(self.asked, self.crew.max_workers - self.asked, self.queue.backlog - self.asked)):
                self._ask()

    @property
    def may_shrink(self) -> bool:
        return len(self.workers) > self.crew.min_workers

    @property
    def in_need(self) -> bool:
        return len(self.workers) < self.crew.min_workers

    def settle(self, node: Node) -> Worker:
        worker = Worker(self, node)
        self.workers.append(worker)
        self.most = max(self.most, len(self.workers))
        return worker

    def arrive(self) -> None:
        """A worker has loaded."""
        self.loaded += 1
        self.grow()

    def leave(self, worker: Worker, held: Bundle | None) -> None:
        """A worker has ended; one that was lost with its node is replaced, and who has nothing to do asks for no more.

        held: what it did not finish.
        """
        self.workers.remove(worker)
        self.asked -= 1
        self.loaded -= worker.loaded
        if held:
            self.queue.give_back(held)
        if not worker.node.lost:
            self.asked -= self.fleet.withdraw(self)
        elif not self.queue.drained:
            self._ask()
        self.fleet.leave(worker.node, worker)

    def _ask(self) -> None:
        self.asked += 1
        self.fleet.request(self)


class Worker:
    """One worker: it starts once its node is up, takes a bundle, works, passes it on, and takes the next."""

    def __init__(self, pool: Pool, node: Node) -> None:
        self.pool, self.node, self.crew, self.env = pool, node, pool.crew, pool.env
        self._share = node.share(self.crew)
        self.loaded = False
        self._bundle: Bundle | None = None
        self._state: State | None = None
        self._since = self._began = self.env.now
        """When it turned to what it does, and when it began with its bundle."""
        self._taken: Event | None = None
        self._admitted: Event | None = None
        """What it waits for."""
        self.process = self.env.process(self._live())

    def lose_node(self) -> None:
        """End, and leave what it holds to others."""
        if self._bundle and not (self._admitted and self._admitted.triggered):
            self._forget(self._bundle)
        self.process.interrupt(_NODE_LOST)

    def _live(self) -> Generator[Event, Any, None]:
        try:
            yield self.node.up
            self._turn("starting")
            yield self.env.timeout(self.crew.load_seconds)
            self.loaded = True
            self.pool.arrive()
            while bundle := (yield from self._take()):
                yield from self._finish(bundle)
        except Interrupt:
            self._let_go()
        self._turn(None)
        self.pool.leave(self, self._bundle)

    def _take(self) -> Generator[Event, Any, Bundle | None]:
        """Get a bundle; None where this worker is not needed any more."""
        queue = self.pool.queue
        self._bundle = queue.take()
        while not self._bundle and not queue.drained:
            self._turn("starved")
            self._taken = queue.wait()
            shrinks = self.pool.may_shrink
            yield self._taken | self.env.timeout(self.pool.fleet.idle_seconds) if shrinks else self._taken
            self._bundle, self._taken = queue.leave(self._taken), None
            if not self._bundle and shrinks and self.pool.may_shrink:
                break
        return self._bundle

    def _finish(self, bundle: Bundle) -> Generator[Event, Any, None]:
        """Work on it and pass it on."""
        self._turn("working")
        self._began = self.env.now
        yield self.env.timeout(self._whole(bundle) * (1 - bundle.done))
        bundle.done = 0.0
        self._admitted = self.pool.destination.bring(bundle)
        if self._admitted:
            self._turn("blocked")
            yield self._admitted
            self._admitted = None
        self._bundle = None

    def _whole(self, bundle: Bundle) -> float:
        """Seconds that it takes all of it."""
        return bundle.utterances * self.crew.seconds

    def _let_go(self) -> None:
        """Wait for nothing any longer; what has come all the same is held, what has been passed on is not."""
        if self._taken:
            self._bundle = self.pool.queue.leave(self._taken)
        elif self._admitted and self._admitted.triggered:
            self._bundle = None
        elif self._admitted:
            self.pool.destination.withdraw(self._admitted)

    def _forget(self, bundle: Bundle) -> None:
        """What is lost with the node: all since the last part that was finished and passed on."""
        whole = self._whole(bundle)
        worked = whole if self._admitted else whole * bundle.done + self.env.now - self._began
        finished = min(int(worked / whole * bundle.parts), bundle.parts - 1)
        lost = worked - whole * finished / bundle.parts
        bundle.done = finished / bundle.parts
        self.pool.redone_seconds += lost
        self.pool.redone_cost += self.node.rent(self._share, lost)

    def _turn(self, state: State | None) -> None:
        if state == self._state:
            return
        if self._state:
            self.pool.seconds[self._state] += self.env.now - self._since
        self.node.turn(self._share, self._state, state)
        self._state, self._since = state, self.env.now
