"""The MLflow model registry: publish, promote, resolve a recogniser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from rayapp.errors import UserError
from rayapp.tracking import open_client, tracked_run

CHAMPION = "champion"
"""Alias of the version that is served."""


@dataclass(frozen=True)
class RegisteredModel:
    """One version of a recogniser."""

    name: str
    version: str
    aliases: tuple[str, ...]
    figures: Mapping[str, float]
    run_id: str
    evaluation: str
    """Folder of the evaluation that it was released by."""


class Registry:
    """The recognisers that were published to one tracking server or file."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client = open_client(home)

    def publish(
        self,
        name: str,
        model: Path,
        figures: Mapping[str, float],
        verdicts: Sequence[Mapping[str, Any]],
        key: str,
        evaluation: Path,
    ) -> str:
        """Store a `.nemo` file or a Whisper folder as a new version of `name`; returns the version.

        A version that was published under the same key already is returned instead.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_registered_model(name)
        except MlflowException:
            self.client.create_registered_model(name)
        for version in self.client.search_model_versions(f"name='{name}'"):
            if version.tags.get("key") == key:
                return str(version.version)
        with tracked_run(self.home, f"release {name}") as run:
            source = run.mlflow.log_file(model)
            run.log_metrics([{key.replace(".", "/"): value for key, value in figures.items()}])
        created = self.client.create_model_version(
            name,
            source,
            run_id=run.mlflow.run_id,
            tags={
                "figures": json.dumps(figures),
                "verdicts": json.dumps(verdicts),
                "key": key,
                "evaluation": str(evaluation.absolute()),
            },
        )
        return str(created.version)

    def promote(self, name: str, version: str, alias: str) -> None:
        self.client.set_registered_model_alias(name, alias, version)

    def resolve(self, name: str, alias: str = CHAMPION) -> Path:
        """The `.nemo` file or Whisper folder behind an alias. Raises `UserError` where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            version = self.client.get_model_version_by_alias(name, alias)
        except MlflowException:
            known = ", ".join(f"{m.name}@{a}" for m in self.list() for a in m.aliases) or "none yet"
            raise UserError(f"the registry has no model {name}@{alias}; known: {known}") from None
        address = urlparse(version.source)
        if address.scheme in ("", "file"):
            return Path(unquote(address.path))
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(version.source, tracking_uri=self.client.tracking_uri))

    def list(self) -> list[RegisteredModel]:
        """Every version, newest first within its name."""
        models = []
        for model in self.client.search_registered_models():
            aliases: dict[str, list[str]] = {}
            for alias, version in model.aliases.items():
                aliases.setdefault(str(version), []).append(alias)
            for version in self.client.search_model_versions(f"name='{model.name}'"):
                models.append(
                    RegisteredModel(
                        name=model.name,
                        version=str(version.version),
                        aliases=tuple(sorted(aliases.get(str(version.version), []))),
                        figures=json.loads(version.tags.get("figures", "{}")),
                        run_id=version.run_id,
                        evaluation=version.tags.get("evaluation", ""),
                    )
                )
        return sorted(models, key=lambda m: (m.name, -int(m.version)))
