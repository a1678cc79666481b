"""Where bundles wait in front of a group, no more than there is room for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from simpy import Environment, Event

from pipelines.capacity.crew import Bundle


class Queue:
    """First in, first out; who brings a bundle waits for room, who takes one waits for a bundle.

    Both are told at once where there is nothing to wait for: a simulation of a long run spends its time here.
    """

    def __init__(self, env: Environment, expected: int, bound: float = 0, bundles: Iterable[Bundle] = ()) -> None:
        """expected: bundles that will come in all. bundles: those that are there from the start, beyond any bound."""
        self.env, self.expected, self.bound = env, expected, bound
        self.waiting = deque(bundles)
        self.again: deque[Bundle] = deque()
        """What interrupted workers held; it came in before, and does not count towards the bound."""
        self.arrived = self.longest = len(self.waiting)
        self._takers: deque[Event] = deque()
        self._bringers: deque[tuple[Event, Bundle]] = deque()

    @property
    def backlog(self) -> int:
        return len(self.waiting) + len(self.again)

    @property
    def drained(self) -> bool:
        """Whether everything came, and was taken."""
        return self.arrived == self.expected and not self.backlog

    def bring(self, bundle: Bundle) -> Event | None:
        """Leave a bundle here; None where there was room, else what happens when there is."""
        if not self._takers and len(self.waiting) >= self.bound:
            admitted = self.env.event()
            self._bringers.append((admitted, bundle))
            return admitted
        self._admit(bundle)
        return None

    def take(self) -> Bundle | None:
        """The next bundle, unless none is here."""
        if self.again:
            bundle = self.again.popleft()
        elif self.waiting:
            bundle = self.waiting.popleft()
            if self._bringers:
                admitted, brought = self._bringers.popleft()
                self._admit(brought)
                admitted.succeed()
        else:
            return None
        self._send_away()
        return bundle

    def wait(self) -> Event:
        """For a bundle; its value is None where no more will come."""
        taken = self.env.event()
        self._takers.append(taken)
        return taken

    def give_back(self, bundle: Bundle) -> None:
        """What was taken and not finished: the next to be taken."""
        if self._takers:
            self._takers.popleft().succeed(bundle)
        else:
            self.again.append(bundle)

    def leave(self, taken: Event) -> Bundle | None:
        """Wait for no bundle any longer; returns the one that came all the same."""
        if taken.triggered:
            bundle: Bundle | None = taken.value
            return bundle
        self._takers.remove(taken)
        return None

    def withdraw(self, admitted: Event) -> None:
        """Wait for room no longer, which has not come."""
        self._bringers = deque(each for each in self._bringers if each[0] is not admitted)

    def _admit(self, bundle: Bundle) -> None:
        self.arrived += 1
        if self._takers:
            self._takers.popleft().succeed(bundle)
        else:
            self.waiting.append(bundle)
            self.longest = max(self.longest, len(self.waiting))
        self._send_away()

    def _send_away(self) -> None:
        """Once nothing more comes, nobody need wait."""
        while self._takers and self.drained:
            self._takers.popleft().succeed(None)
