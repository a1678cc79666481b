"""The process that owns a device: one thread, the models that are asked for, and batches of what queues up."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from traceback import format_tb

import numpy as np
from ray.serve import get_multiplexed_model_id, multiplexed

from rayapp.asr.context import Context
from serve.batcher import Batcher, OverloadError
from serve.config import ServeConfig
from serve.metrics import RecogniserMetrics
from serve.models import Catalogue, ServedModel
from serve.scaling import PENDING_SECONDS
from serve.shelf import OpenModel, Shelf
from serve.transcription import Answer, ContextRefused, Refusal, Samples

_MOST_FAILURES = 8
"""In a row: one request that cannot be heard has up to two."""
_SPARE_MODELS = 2
"""Versions before or after those that are served."""
_MOST_KERNELS = "64"
"""Of oneDNN, on a CPU: it makes some for each length of audio, and of the 1,024 that it keeps unless told, the process
grows by 300 MB."""
_TIDY_SECONDS = 10.0
_log = logging.getLogger(f"ray.{__name__}")


class RecogniserReplica:
    """A copy of the models. It is ready when each of them has heard a first batch."""

    async def __init__(self, config: ServeConfig, home: Path) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _MOST_KERNELS)  # read with the first batch
        device = "cuda" if config.gpus_per_replica else "cpu"
        catalogue = await asyncio.to_thread(Catalogue, config, home)
        self._metrics = RecogniserMetrics()
        self._batcher = Batcher(config.batching.on(device), self._metrics)
        shelf = Shelf(device, self._batcher.on_device, self._metrics)

        async def load(model_id: str) -> OpenModel:
            model = await shelf.open(model_id, await asyncio.to_thread(catalogue.fetch, model_id))
            catalogue.note_loaded(model_id)
            return model

        most = config.models_in_memory or len(config.models) + _SPARE_MODELS
        self._model = multiplexed(load, max_num_models_per_replica=most)
        await self._prepare_all([*catalogue.current.values()][:most], catalogue)
        self._following = asyncio.create_task(catalogue.follow(self.prepare))
        self._tidying = asyncio.create_task(_give_memory_back())

    async def _prepare_all(self, models: Sequence[ServedModel], catalogue: Catalogue) -> None:
        """Instead of a version that cannot be loaded, the one that was last is: ingresses serve that still.

        Raises what is wrong where no model can be loaded.
        """
        error, loaded = None, 0
        for model in models:
            for version in filter(None, (model, catalogue.last_loaded(model.name))):
                try:
                    await self.prepare(version)
                except Exception as fault:
                    error = fault
                    _log.error("%s cannot be loaded", version.id, exc_info=True)
                else:
                    loaded += 1
                    break
        if error and not loaded:
            raise error

    async def prepare(self, model: ServedModel) -> None:
        """Load a model that is to be asked for soon."""
        await self._loaded(model.id)

    async def _loaded(self, model_id: str) -> OpenModel:
        # Shielded: who hangs up meanwhile is to stop no load, which its thread would go on with beside another one.
        model: OpenModel = await asyncio.shield(self._model(model_id))
        return model

    async def transcribe(self, samples: Samples, stream: str, admitted: bool, context: Context) -> Answer:
        """See `serve.transcription.Recognisers`; which model is meant, Ray Serve tells."""
        model = await self._loaded(get_multiplexed_model_id())
        if context and not model.recogniser.takes_context:
            return ContextRefused()
        audio = samples.astype(np.float32) / 32768
        try:
            return await self._batcher.transcribe(model, audio, stream, context=context, admitted=admitted)
        except OverloadError as error:
            return Refusal(error.retry_after_seconds)
        except Exception as error:  # its message may tell of the audio, and Ray would put it into logs and traces
            _log.error("a batch failed: %s at\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
            raise RuntimeError(f"{type(error).__name__} in the recogniser") from None

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray asks now and then, see `serve.scaling`."""
        self._metrics.pending_seconds.set(self._batcher.pending_seconds)
        return {PENDING_SECONDS: self._batcher.pending_seconds}

    def check_health(self) -> None:
        """Ray asks now and then, and starts another replica instead of one that raises."""
        if self._batcher.failures > _MOST_FAILURES:
            raise RuntimeError(f"the last {self._batcher.failures} batches failed")


async def _give_memory_back() -> None:
    """Now and then, for ever. Between buffers of ever other lengths, glibc would keep more and more of what is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    while trim:
        await asyncio.sleep(_TIDY_SECONDS)
        await asyncio.to_thread(trim, 0)
