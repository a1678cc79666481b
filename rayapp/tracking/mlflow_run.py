"""A run in MLflow: on a tracking server, or in a SQLite file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "rayapp"
_MOST_AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""
_SYSTEM_SECONDS = 15.0


def tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite file in `home`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.absolute() / 'mlflow.db'}"


def open_client(home: Path) -> MlflowClient:
    """A client of the tracking server or file; makes the file where there is none."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    home.mkdir(parents=True, exist_ok=True)
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):  # they tell what they do, line by line
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(home))


class MlflowRun:
    """One run of the experiment, with the figures of the machine that drives it."""

    def __init__(self, home: Path, name: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.client = open_client(home)
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self.client.create_experiment(EXPERIMENT, artifact_location=_artifact_location(home))
        )
        self.run_id: str = self.client.create_run(experiment_id, run_name=name).info.run_id
        self._system = SystemMetricsMonitor(
            self.run_id, sampling_interval=_SYSTEM_SECONDS, tracking_uri=tracking_uri(home)
        )
        self._system.start()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested settings become dotted keys; MLflow keeps 500 characters of each."""
        for key, value in _flatten(params):
            self.client.log_param(self.run_id, key, value)

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), 0, int(entry.get("step", 0)))
            for entry in entries
            for key, value in entry.items()
            if key != "step"
        ]
        for start in range(0, len(metrics), _MOST_AT_ONCE):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_AT_ONCE])

    def log_text(self, name: str, text: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def log_file(self, path: Path) -> str:
        """Keep a file with the run; returns its address."""
        self.client.log_artifact(self.run_id, str(path))
        return f"{self.client.get_run(self.run_id).info.artifact_uri}/{path.name}"

    def close(self, status: str) -> None:
        self._system.finish()
        self.client.set_terminated(self.run_id, status)


def _artifact_location(home: Path) -> str | None:
    """Beside the SQLite file; a tracking server has its own."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else (home.absolute() / "artifacts").as_uri()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, (value if isinstance(value, str) else json.dumps(value))[:500]
