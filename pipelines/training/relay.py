"""Between the driver of a training and its workers: figures come while they work, and errors as they were raised."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rayapp.errors import UserError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


def start_relay() -> Any:
    """A handle of a `Relay` in a process of its own, on the driver's machine: others may be lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Relay).remote()


class Relay:
    """An actor between rank 0 and the driver: figures queue here until they are fetched."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.refused = ""

    def refuse(self, message: str) -> None:
        """What the user has to mend: whoever starts after that gives up with it."""
        self.refused = self.refused or message

    def refusal(self) -> str:
        """Empty as long as there is none."""
        return self.refused

    def put(self, figures: dict[str, Any]) -> None:
        self.entries.append(figures)

    def take(self) -> list[dict[str, Any]]:
        entries, self.entries = self.entries, []
        return entries


def fit(trainer: TorchTrainer, relay: Any) -> Iterator[list[dict[str, Any]]]:
    """Train, and yield the figures as they come.

    Not in the main thread: there Ray Train would take over Ctrl-C, and end the process with success.
    """
    import ray

    failure: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while True:
        thread.join(timeout=0.5)
        ended = not thread.is_alive()
        yield ray.get(relay.take.remote())
        if ended:
            break
    if failure:
        raise _cause(failure[0]) from failure[0]


def _cause(error: BaseException) -> BaseException:
    """The user's error at the bottom of what Ray wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return unwrapped(seen)
        for failure in getattr(seen, "worker_failures", {}).values():
            if isinstance(found := _cause(failure), UserError):
                return found
        seen = seen.__cause__
    return error


def unwrapped(error: UserError) -> UserError:
    """What a task raised: Ray's own error is one of that kind, too, but its text is a traceback."""
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, UserError) else error
