"""The MLflow model registry: publish a recogniser, promote it, take that back, find it, and know who did what when."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from rayapp.asr.cache import kept
from rayapp.errors import UserError
from rayapp.tracking import open_client, tracked_run

CHAMPION = "champion"
"""Alias of the version that is served."""
CHALLENGER = "challenger"
"""Alias of the version that was released last, and is not served."""
_MOST_CHARACTERS = 1200
"""Of a reason: a tag has room for 5000 bytes."""
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow calls an error that tells that something is not there."""
_EVENT = "rayapp.event."
"""Begins the tags of a registered model that tell its history; MLflow keeps no other."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers run as users that nobody named
        return f"user {os.getuid()}"


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
    model_id: str = ""
    """Of its content; empty for one that was published without."""
    origin: str = ""
    """Where the model lay that was published: its training tells what it learnt from."""


@dataclass(frozen=True)
class Event:
    """Something that was decided on a recogniser."""

    when: str
    """UTC, as ISO 8601 has it."""
    who: str
    action: str
    """`promoted`, `refused` or `rolled back`."""
    version: str
    """That was promoted, refused, or taken from the alias."""
    champion_before: str | None
    champion: str | None
    """The version that is served since."""
    why: str


class Registry:
    """The recognisers that were published to one tracking server or file."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client = open_client(home)

    def publish(
        self,
        name: str,
        model: Path,
        model_id: str,
        figures: Mapping[str, float],
        verdicts: Sequence[Mapping[str, Any]],
        key: str,
        evaluation: Path,
    ) -> str:
        """Store a `.nemo` file or a Whisper folder as a new version of `name`; returns the version.

        model_id: by which it is known again when a later one is compared with it; see `rayapp.ids.path_id`.

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
                "model_id": model_id,
                "origin": str(model.absolute()),
                "evaluation": str(evaluation.absolute()),
            },
        )
        return str(created.version)

    def promote(self, name: str, version: str, alias: str) -> None:
        self.client.set_registered_model_alias(name, alias, version)

    def crown(self, name: str, version: str, why: str) -> None:
        """Make a version the champion; nothing happens where it was that already: what was rolled back stays so."""
        if any(event.action == "promoted" and event.version == version for event in self.history(name)):
            return
        self._record(name, "promoted", version, self.champion(name), version, why)
        self.promote(name, version, CHAMPION)
        if self.version(name, CHALLENGER) == version:
            self.client.delete_registered_model_alias(name, CHALLENGER)

    def refuse(self, name: str, version: str, why: str) -> None:
        """Note that a version was not made the champion; once for each reason."""
        champion = self.champion(name)
        if not any(e.action == "refused" and (e.version, e.why) == (version, why) for e in self.history(name)):
            self._record(name, "refused", version, champion, champion, why)

    def roll_back(self, name: str, why: str) -> Event:
        """Make the version the champion again that was it before the present one.

        Raises `UserError` where there is none.
        """
        history = self.history(name)
        champion = self.champion(name)
        if champion is None:
            raise UserError(f"the registry has no {name}@{CHAMPION} to roll back; `rayapp models` lists what there is")
        reigns: list[str] = []
        for event in history:
            if event.action == "promoted":
                reigns.append(event.version)
            elif event.action == "rolled back":
                reigns.pop()
        if len(reigns) < 2:
            raise UserError(f"{name} version {champion} is the first champion: there is none to go back to")
        recorded = self._record(name, "rolled back", champion, champion, reigns[-2], why)
        self.promote(name, reigns[-2], CHAMPION)
        return recorded

    def history(self, name: str) -> Sequence[Event]:
        """All that was decided on a recogniser, oldest first. Raises `UserError` for a name that is not there."""
        from mlflow.exceptions import MlflowException

        try:
            tags = self.client.get_registered_model(name).tags
        except MlflowException:
            known = ", ".join(model.name for model in self.client.search_registered_models()) or "none yet"
            raise UserError(f"the registry has no model {name}; known: {known}") from None
        return [Event(**json.loads(tags[tag])) for tag in sorted(tags) if tag.startswith(_EVENT)]

    def champion(self, name: str) -> str | None:
        """The version that is served; None where none is."""
        return self.version(name, CHAMPION)

    def champion_model(self, name: str) -> RegisteredModel | None:
        """What is known of the version that is served; None where none is, or the name is not there."""
        return next((model for model in self.list() if model.name == name and CHAMPION in model.aliases), None)

    def version(self, name: str, alias: str) -> str | None:
        """The version behind an alias; None where there is none."""
        found = self.client.get_registered_model(name).aliases.get(alias)
        return None if found is None else str(found)

    def _record(
        self, name: str, action: str, version: str, before: str | None, champion: str | None, why: str
    ) -> Event:
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # MLflow takes no + in the name of a tag
        event = Event(when, _user(), action, version, before, champion, why[:_MOST_CHARACTERS])
        self.client.set_registered_model_tag(name, f"{_EVENT}{when}", json.dumps(asdict(event), ensure_ascii=False))
        return event

    def resolve(self, name: str, alias: str = CHAMPION) -> Path:
        """The `.nemo` file or Whisper folder behind an alias. Raises `UserError` where there is none."""
        return self.fetch(name, self.version_of(name, alias))

    def version_of(self, name: str, alias: str) -> str:
        """The version behind an alias. Raises `UserError` where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            known = ", ".join(f"{m.name}@{a}" for m in self.list() for a in m.aliases) or "none yet"
            raise UserError(f"the registry has no model {name}@{alias}; known: {known}") from None

    def fetch(self, name: str, version: str) -> Path:
        """The `.nemo` file or Whisper folder of a version; from elsewhere it is fetched to this machine, once.

        Raises `UserError` where there is none.
        """
        from mlflow.exceptions import MlflowException

        try:
            source = self.client.get_model_version(name, version).source
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise UserError(f"the registry has no version {version} of {name}") from None
        address = urlparse(source)
        if address.scheme in ("", "file"):
            return Path(unquote(address.path))
        from mlflow.artifacts import download_artifacts

        def download(folder: Path) -> None:
            download_artifacts(source, dst_path=str(folder), tracking_uri=self.client.tracking_uri)

        return kept([self.client.tracking_uri, name, version, source], download)

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
                        model_id=version.tags.get("model_id", ""),
                        origin=version.tags.get("origin", ""),
                    )
                )
        return sorted(models, key=lambda m: (m.name, -int(m.version)))
