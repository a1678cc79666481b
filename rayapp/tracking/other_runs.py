"""The same figures for other eyes: a CSV file, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class CsvRun:
    """`metrics.csv`: a row for each figure."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.csv").open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        if not self._file.tell():
            self._rows.writerow(["step", "name", "value"])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """They are in the folder's `config.json`."""

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        self._rows.writerows(
            (entry.get("step", 0), key, value) for entry in entries for key, value in entry.items() if key != "step"
        )
        self._file.flush()

    def log_text(self, name: str, text: str) -> None:
        """No figure."""

    def close(self, status: str) -> None:
        self._file.close()


class TensorBoardRun:
    """Event files for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log_params(self, params: Mapping[str, Any]) -> None:
        import json

        self._writer.add_text("settings", f"```json\n{json.dumps(params, indent=2)}\n```")

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        for entry in entries:
            for key, value in entry.items():
                if key != "step":
                    self._writer.add_scalar(key, value, int(entry.get("step", 0)))
        self._writer.flush()

    def log_text(self, name: str, text: str) -> None:
        self._writer.add_text(name, f"```\n{text}\n```")

    def close(self, status: str) -> None:
        self._writer.close()


class WandbRun:
    """A run of Weights & Biases; its key and mode come from the environment (`WANDB_API_KEY`, `WANDB_MODE`)."""

    def __init__(self, project: str, name: str, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run = wandb.init(project=project, name=name, dir=str(folder), reinit="create_new")

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._run.config.update(dict(params))  # type: ignore[no-untyped-call]

    def log_metrics(self, entries: Sequence[Mapping[str, float]]) -> None:
        for entry in entries:
            figures = {key: value for key, value in entry.items() if key != "step"}
            self._run.log(figures, step=int(entry.get("step", 0)))

    def log_text(self, name: str, text: str) -> None:
        import wandb

        self._run.log({name: wandb.Html(f"<pre>{_escaped(text)}</pre>")})

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
