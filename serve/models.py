"""Which models are served, and which version of each: the one that its alias in the registry points to now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from rayapp.asr.cache import local_copy
from rayapp.asr.resolve import resolve_recogniser
from rayapp.ids import content_id
from rayapp.ray_session import cache_folder
from rayapp.registry import Registry
from rayapp.tracking import tracking_uri
from serve.config import ModelConfig, ServeConfig

_RETRY_SECONDS = 300.0
"""After which a version that could not be prepared is tried again."""
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
        """home: folder of the registry.

        While it is away, or an alias is not there any more, versions are those that this machine was told last. Raises
        what is wrong where it was never told any.
        """
        self._models = {model.name: model for model in config.models}
        self._home, self._poll_seconds, self._copies = home, config.registry_poll_seconds, config.copy_models
        self._registry: Registry | None = None
        self._current = {name: self._look_up(model) for name, model in self._models.items()}
        self._prepared: dict[str, ServedModel] = {}
        self._broken: dict[ServedModel, float] = {}
        """When they may be tried again."""

    def require(self) -> None:
        """Raises `UserError` for a model that the registry has not now."""
        for model in self._models.values():
            self._ask(model)

    @property
    def current(self) -> Mapping[str, ServedModel]:
        """By their names, in the order of the settings."""
        return self._current

    async def follow(
        self, prepare: Callable[[ServedModel], Awaitable[None]], failed: Callable[[], None] = lambda: None
    ) -> None:
        """Asks the registry now and then, for ever; see `update`."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            await self.update(prepare, failed)

    async def update(
        self, prepare: Callable[[ServedModel], Awaitable[None]], failed: Callable[[], None] = lambda: None
    ) -> None:
        """What an alias points to now is served after it was prepared, and one round later: by then, all replicas have
        it.

        failed: called for each model whose alias cannot be looked up, or whose version cannot be prepared: it stays as
            it is, and costs the others nothing.
        """
        for name in self._models:
            try:
                await self._update(name, prepare)
            except Exception as error:  # a registry has many ways to be away, and a model to be broken
                failed()
                _log.error("%s stays as it is: %s", self._current[name].id, type(error).__name__, exc_info=True)

    async def _update(self, name: str, prepare: Callable[[ServedModel], Awaitable[None]]) -> None:
        model = await asyncio.to_thread(self._ask, self._models[name])
        if model == self._current[name]:
            self._prepared.pop(name, None)
        elif self._prepared.get(name) == model:
            _log.warning("%s is served instead of %s", model.id, self._current[name].id)
            self._current = {**self._current, name: model}
        elif time.monotonic() >= self._broken.get(model, 0.0):
            self._broken[model] = time.monotonic() + _RETRY_SECONDS  # each try may cost another model its place
            await prepare(model)
            del self._broken[model]
            self._prepared[name] = model

    def note_loaded(self, model_id: str) -> None:
        """Remember on this machine that a version can be loaded."""
        name, _, version = model_id.partition(":")
        self._last_loaded(name).write_text(version)

    def last_loaded(self, name: str) -> ServedModel | None:
        """The version that was loaded last on this machine."""
        told = self._last_loaded(name)
        return ServedModel(name, told.read_text(), self._models[name].language) if told.is_file() else None

    def fetch(self, model_id: str) -> Path:
        """The file or folder of a model by its `ServedModel.id`, which is fetched when this machine has it not yet.

        Raises `UserError` where it cannot be had.
        """
        name, _, version = model_id.partition(":")
        model, lock = self._models[name], _memory("fetch", model_id).with_suffix(".lock")
        with FileLock(lock):  # each replica of this machine wants it
            path = self._fetched(model, version)
            return local_copy(path) if self._copies and not path.is_relative_to(cache_folder()) else path

    def _fetched(self, model: ModelConfig, version: str) -> Path:
        if not model.registered:
            return resolve_recogniser(model.source or model.name, self._home)
        name, _ = model.registered
        told = _memory("version", tracking_uri(self._home), name, version)
        if told.is_file() and (path := Path(told.read_text())).exists():  # the registry may be away
            return path
        path = self._open_registry().fetch(name, version)
        told.write_text(str(path))
        return path

    def _look_up(self, model: ModelConfig) -> ServedModel:
        """As `_ask`, or what was told last."""
        try:
            return self._ask(model)
        except Exception:
            told = self._last_told(model)
            if not told.is_file():
                raise
            _log.error("%s is the version that was told last, as the registry tells none", model.name, exc_info=True)
            return ServedModel(model.name, told.read_text(), model.language)

    def _ask(self, model: ModelConfig) -> ServedModel:
        if model.registered is None:
            return ServedModel(model.name, "", model.language)
        version = self._open_registry().version_of(*model.registered)
        self._last_told(model).write_text(version)
        return ServedModel(model.name, version, model.language)

    def _last_told(self, model: ModelConfig) -> Path:
        return _memory("alias", tracking_uri(self._home), *(model.registered or ()))

    def _last_loaded(self, name: str) -> Path:
        return _memory("loaded", tracking_uri(self._home), name, self._models[name].source or "")

    def _open_registry(self) -> Registry:
        if self._registry is None:
            self._registry = Registry(self._home)
        return self._registry


def _memory(*key: str) -> Path:
    """A file of this machine, to remember something in."""
    folder = cache_folder() / "served"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / content_id(list(key))
