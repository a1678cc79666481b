"""Experiment tracking behind one small surface: MLflow, and beside it whatever else is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from rayapp.tracking.mlflow_run import MlflowRun, open_client, tracking_uri

__all__ = ["DEFAULT_HOME", "TrackedRun", "Tracker", "open_client", "tracked_run", "tracking_uri"]

DEFAULT_HOME = Path("runs/quickstart/tracking")
"""Where runs are tracked and recognisers registered, unless `MLFLOW_TRACKING_URI` names a server or file."""


class Tracker(Protocol):
    """One run, as one tool keeps it."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings, nested as they are."""
        ...

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        """Each entry's figures, at its `step` (0 where it has none)."""
        ...

    def log_text(self, name: str, text: str) -> None:
        """Something to read, such as sample transcripts; `name` ends like a file's."""
        ...

    def close(self, status: str) -> None:
        """status: FINISHED, FAILED or KILLED."""
        ...


class TrackedRun:
    """A run in MLflow and in other trackers."""

    def __init__(self, mlflow: MlflowRun, others: Sequence[Tracker]) -> None:
        self.mlflow = mlflow
        self._trackers: list[Tracker] = [mlflow, *others]

    def log_params(self, params: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log_params(params)

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        for tracker in self._trackers:
            tracker.log_metrics(entries)

    def log_text(self, name: str, text: str) -> None:
        for tracker in self._trackers:
            tracker.log_text(name, text)


@contextmanager
def tracked_run(home: Path, name: str, others: Sequence[Callable[[], Tracker]] = ()) -> Iterator[TrackedRun]:
    """A run that ends as finished, failed or killed, as the block does.

    home: folder of MLflow's SQLite file, where no server is named.
    others: make the trackers beside MLflow.
    """
    status = "FAILED"
    with ExitStack() as closing:

        def opened(tracker: Any) -> Any:
            closing.callback(lambda: tracker.close(status))
            return tracker

        run = TrackedRun(opened(MlflowRun(home, name)), [opened(make()) for make in others])
        try:
            yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
