"""The models that a replica has open on its device: each by itself, but for adapters, which share their base."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from rayapp.asr.context import Context
from rayapp.asr.recogniser import Heard, Recogniser
from rayapp.records import SAMPLE_RATE_HZ, Audio
from serve.metrics import RecogniserMetrics

if TYPE_CHECKING:
    from rayapp.asr.adapters import Adaptable


@dataclass(eq=False)
class OpenModel:
    """A model to listen with, which stays open for as long as somebody has this."""

    id: str
    recogniser: Recogniser
    adaptable: Adaptable | None
    """The recogniser, where it is one that takes adapters."""
    adapter: str | None
    metrics: RecogniserMetrics

    def __call__(self, audio: Sequence[Audio], contexts: Sequence[Context]) -> list[Heard]:
        """On the device's thread, as the others of the shelf: they may share a recogniser."""
        began = time.monotonic()
        heard = self._transcribe(audio, contexts)
        self._count(audio, heard, time.monotonic() - began)
        return heard

    def warm_up(self) -> None:
        """The first batch is slow: it is not to be a client's."""
        self._transcribe([np.zeros(SAMPLE_RATE_HZ, np.float32)], ())

    def _transcribe(self, audio: Sequence[Audio], contexts: Sequence[Context]) -> list[Heard]:
        if self.adaptable:
            self.adaptable.use_adapter(self.adapter)
        return self.recogniser.transcribe(audio, times=True, contexts=contexts)

    def _count(self, audio: Sequence[Audio], heard: Sequence[Heard], busy_seconds: float) -> None:
        told, metrics, samples = {"model": self.id}, self.metrics, sum(map(len, audio))
        metrics.batch_size.observe(len(audio), told)
        metrics.padding_share.observe(1 - samples / (len(audio) * max(map(len, audio))), told)
        metrics.device_seconds.inc(busy_seconds, told)
        metrics.device_audio_seconds.inc(samples / SAMPLE_RATE_HZ, told)
        for word in chain.from_iterable(each.words for each in heard):
            if word.confidence is not None:
                metrics.word_confidence.observe(word.confidence, told)


class Shelf:
    """Opens models, and puts away what nobody has any more."""

    def __init__(
        self, device: str, on_device: Callable[[Callable[[], Any]], Awaitable[Any]], metrics: RecogniserMetrics
    ) -> None:
        """device: `cpu` or `cuda`. on_device: has something done by the thread that owns it."""
        self._device, self._on_device, self._metrics = device, on_device, metrics
        self._recognisers: WeakValueDictionary[Path, Any] = WeakValueDictionary()
        self._open: WeakValueDictionary[str, OpenModel] = WeakValueDictionary()

    async def open(self, model_id: str, path: Path) -> OpenModel:
        """A model that was warmed up. One call at a time.

        model_id: of its own; under it, an adapter is known. path: a `.nemo` file, or the folder of a Whisper or of an
            adapter to one.

        The device goes on meanwhile, but for what must not be done beside a model that listens. Raises `UserError` for
        what is no model.
        """
        if model := self._open.get(model_id):  # it had to go, but somebody still listens with it
            return model
        base, adapter = await asyncio.to_thread(_parts, path)
        recogniser = self._recognisers.get(base)
        if recogniser is None:
            # What had to go is a ring of objects that hold one another: its memory would stay until Python looks.
            gc.unfreeze()  # a Whisper that was open when NeMo was imported
            await asyncio.to_thread(gc.collect)
            recogniser = self._recognisers[base] = await asyncio.to_thread(_opened, base, self._device)
        if adapter:
            await self._on_device(partial(self._load_adapter, recogniser, model_id, adapter))
        model = OpenModel(model_id, recogniser, _adaptable(recogniser), model_id if adapter else None, self._metrics)
        await self._on_device(model.warm_up)
        self._open[model_id] = model
        return model

    def _load_adapter(self, recogniser: Adaptable, name: str, folder: Path) -> None:
        for loaded in recogniser.adapters:
            if loaded not in self._open:
                recogniser.unload_adapter(loaded)
        recogniser.load_adapter(name, folder)


def _parts(path: Path) -> tuple[Path, Path | None]:
    """The whole model, and the adapter to it where the path is that of one."""
    from rayapp.asr.adapters import ADAPTER_CONFIG

    if not (path / ADAPTER_CONFIG).is_file():
        return path.resolve(), None
    from rayapp.asr.whisper import base_of

    return base_of(path).resolve(), path


def _opened(path: Path, device: str) -> Recogniser:
    from rayapp.asr.open import open_recogniser

    return open_recogniser(path, device)


def _adaptable(recogniser: Recogniser) -> Adaptable | None:
    from rayapp.asr.adapters import Adaptable

    return recogniser if isinstance(recogniser, Adaptable) else None
