"""Experiment tracking behind one small surface: MLflow, on SQLite unless told otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "rayapp"
DEFAULT_HOME = Path("runs/quickstart/tracking")
"""Where runs are tracked and recognisers registered, unless `MLFLOW_TRACKING_URI` names a server or file."""


def tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite file in `home`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.absolute() / 'mlflow.db'}"


def open_client(home: Path) -> MlflowClient:
    """A client of the tracking server or file; makes the file where there is none."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    home.mkdir(parents=True, exist_ok=True)
    import logging

    for name in ("alembic", "mlflow.store.db.utils"):  # they say a line per table when they make the file
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(home))


class TrackedRun:
    """One run of an experiment."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested settings become dotted keys; MLflow keeps 500 characters of each."""
        for key, value in _flatten(params):
            self.client.log_param(self.run_id, key, value)

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        """Each entry's figures, at its `step` (0 where it has none)."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), 0, int(entry.get("step", 0)))
            for entry in entries
            for key, value in entry.items()
            if key not in ("step", "total_steps")
        ]
        for start in range(0, len(metrics), 1000):  # the most that MLflow takes at once
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])

    def log_file(self, path: Path) -> str:
        """Keep a file with the run; returns its address."""
        self.client.log_artifact(self.run_id, str(path))
        return f"{self.client.get_run(self.run_id).info.artifact_uri}/{path.name}"


@contextmanager
def tracked_run(home: Path, name: str) -> Iterator[TrackedRun]:
    """A run that ends as finished, failed or killed, as the block does."""
    client = open_client(home)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(EXPERIMENT, artifact_location=_artifact_location(home))
    )
    run = client.create_run(experiment_id, run_name=name)
    status = "FAILED"
    try:
        yield TrackedRun(client, run.info.run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run.info.run_id, status)


def _artifact_location(home: Path) -> str | None:
    """Beside the SQLite file; a tracking server has its own."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else (home.absolute() / "artifacts").as_uri()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, (value if isinstance(value, str) else json.dumps(value))[:500]
