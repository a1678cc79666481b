"""A run in MLflow: on a tracking server, or in a SQLite file."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "rayapp"
_NOT_IN_NAMES = re.compile(r"[^\w.\- :/]")
"""What MLflow refuses in the names of parameters and metrics."""
_MOST_AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""
_SYSTEM_SECONDS = 15.0
_TALKATIVE = ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics", "mlflow.utils.environment")
"""Loggers that tell what they do, line by line."""
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # it would keep the lock file of the folder that a run was started in
}


def tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite file in `home`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.absolute() / 'mlflow.db'}"


def open_client(home: Path) -> MlflowClient:
    """A client of the tracking server or file; makes the file, and the experiment, where there is none.

    One process at a time: two that make the tables of the same file at once both fail.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    home.mkdir(parents=True, exist_ok=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    from filelock import FileLock
    from mlflow import MlflowClient

    with FileLock(home / ".tracking.lock"):
        client = MlflowClient(tracking_uri(home))
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=_artifact_location(home))
    return client


class MlflowRun:
    """One run of the experiment, with the figures of the machine that drives it."""

    def __init__(self, home: Path, name: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.client = open_client(home)
        experiment_id = self.client.get_experiment_by_name(EXPERIMENT).experiment_id
        self.run_id: str = self.client.create_run(experiment_id, run_name=name).info.run_id
        self._system = SystemMetricsMonitor(
            self.run_id, sampling_interval=_SYSTEM_SECONDS, tracking_uri=tracking_uri(home)
        )
        self._system.start()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested settings become dotted keys, as far as MLflow can name them; it keeps 500 characters of each."""
        for key, value in _flatten(params):
            self.client.log_param(self.run_id, key, value)

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [
            Metric(_NOT_IN_NAMES.sub("_", key), float(value), now, int(entry.get("step", 0)))
            for entry in entries
            for key, value in entry.items()
            if key != "step"
        ]
        for start in range(0, len(metrics), _MOST_AT_ONCE):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_AT_ONCE])

    def log_text(self, name: str, text: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def set_tag(self, name: str, value: str) -> None:
        self.client.set_tag(self.run_id, name, value)

    def log_file(self, path: Path) -> str:
        """Keep a file or folder with the run; returns its address."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self.client.log_artifact(self.run_id, str(path))
        return f"{self.client.get_run(self.run_id).info.artifact_uri}/{path.name}"

    def log_recogniser(self, path: Path) -> None:
        """Keep a recogniser with the run, as a model with a signature that `mlflow.pyfunc` loads."""
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types import Schema, TensorSpec

        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
            outputs=Schema([TensorSpec(np.dtype(str), (-1,))]),
        )
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow would have its own hints of types
            save_model(
                f"{folder}/model",
                python_model=str(Path(__file__).with_name("recogniser_model.py")),
                artifacts={"recogniser": str(path)},
                signature=signature,
                pip_requirements=[],  # no package index has this project
            )
            self.client.log_artifacts(self.run_id, f"{folder}/model", "model")

    def log_manifest(self, location: str, manifest_id: str, contexts: Sequence[str]) -> None:
        """Tell that the run reads a manifest; contexts: what for, such as `training`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        from rayapp.storage import name_of

        dataset = Dataset(name_of(location), manifest_id, "manifest", json.dumps({"uri": location}))
        tag = InputTag("mlflow.data.context", ", ".join(contexts))
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    def close(self, status: str) -> None:
        self._system.finish()
        self.client.set_terminated(self.run_id, status)


def _artifact_location(home: Path) -> str | None:
    """Beside the SQLite file; a tracking server has its own."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else (home.absolute() / "artifacts").as_uri()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and not any(_NOT_IN_NAMES.search(str(name)) for name in value):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, (value if isinstance(value, str) else json.dumps(value))[:500]
