"""Which models are served, and which version of each: the one that its alias in the registry points to now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from rayapp.asr.cache import local_copy
from rayapp.asr.resolve import resolve_recogniser
from rayapp.ray_session import cache_folder
from rayapp.registry import Registry
from serve.config import ModelConfig, ServeConfig

_log = logging.getLogger(f"ray.{__name__}")


@dataclass(frozen=True)
class ServedModel:
    """A model as it is served now."""

    name: str
    version: str
    """In the registry; empty for what is not from there."""
    language: str

    @property
    def id(self) -> str:
        """Of what is loaded, such as `medical-asr:3`."""
        return f"{self.name}:{self.version}" if self.version else self.name


class Catalogue:
    """The models of the settings, and their versions.

    The ingresses and the replicas each have one, which follows the registry by itself. A request names the version that
    it is to be heard by, so that no two pieces of one audio are heard by different ones.
    """

    def __init__(self, config: ServeConfig, home: Path) -> None:
        """home: folder of the registry. Raises `UserError` for a model that it has not."""
        self._models = {model.name: model for model in config.models}
        self._home, self._poll_seconds, self._copies = home, config.registry_poll_seconds, config.copy_models
        self._registry: Registry | None = None
        self._current = self._looked_up()
        self._prepared: set[ServedModel] = set()

    @property
    def current(self) -> Mapping[str, ServedModel]:
        """By their names, in the order of the settings."""
        return self._current

    async def follow(
        self, prepare: Callable[[ServedModel], Awaitable[None]], failed: Callable[[], None] = lambda: None
    ) -> None:
        """Asks the registry now and then, for ever. What an alias points to now is served after it was prepared, and
        one round later: by then, all replicas have it.

        failed: called when the registry is away, or a version cannot be prepared: then all stays as it is.
        """
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.update(prepare)
            except Exception as error:  # a registry has many ways to be away, and a model to be broken
                failed()
                _log.error("what is served stays as it is: %s: %s", type(error).__name__, error)

    async def update(self, prepare: Callable[[ServedModel], Awaitable[None]]) -> None:
        """One round of `follow`."""
        for name, model in (await asyncio.to_thread(self._looked_up)).items():
            if model == self._current[name]:
                self._prepared.discard(model)
            elif model in self._prepared:
                _log.warning("%s is served instead of %s", model.id, self._current[name].id)
                self._current = {**self._current, name: model}
            else:
                await prepare(model)
                self._prepared.add(model)

    def fetch(self, model_id: str) -> Path:
        """The file or folder of a model by its `ServedModel.id`, which is fetched when this machine has it not yet.

        Raises `UserError` where it cannot be had.
        """
        name, _, version = model_id.partition(":")
        model, lock = self._models[name], cache_folder() / "fetch.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # each replica of this machine wants it
            if model.registered:
                path = self._open_registry().fetch(model.registered[0], version)
            else:
                path = resolve_recogniser(model.source or name, self._home)
            return local_copy(path) if self._copies else path

    def _looked_up(self) -> dict[str, ServedModel]:
        return {
            model.name: ServedModel(model.name, self._version(model), model.language) for model in self._models.values()
        }

    def _version(self, model: ModelConfig) -> str:
        if model.registered is None:
            return ""
        return self._open_registry().version_of(*model.registered)

    def _open_registry(self) -> Registry:
        if self._registry is None:
            self._registry = Registry(self._home)
        return self._registry
