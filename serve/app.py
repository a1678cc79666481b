"""The application: an ingress that speaks OpenAI's API, and recognisers behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ray.serve import Application, deployment, ingress
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rayapp.asr.recogniser import Heard
from serve.api import build_api
from serve.config import ServeConfig
from serve.recogniser import RecogniserReplica
from serve.transcription import Refusal, Samples

INGRESS_CPUS = 0.1
_MOST_AT_A_TIME = 512
"""Pieces in a replica, those that wait included: its batches are made of them. The queue's bound is in seconds."""
_ROOM_SECONDS = 1.0
"""After which there may be room again."""


class _Ingress:
    """Takes uploads in, and asks the recognisers."""

    def __init__(self, config: ServeConfig, recogniser: DeploymentHandle) -> None:
        self._config, self._handle = config, recogniser

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_api(self._config, self._listen)

    async def _listen(self, samples: Samples, stream: str, admitted: bool) -> Heard | Refusal:
        while True:
            response = self._handle.transcribe.remote(samples, stream, admitted)
            try:
                heard: Heard | Refusal = await response
            except BackPressureError:
                if not admitted:
                    return Refusal(_ROOM_SECONDS)
                await asyncio.sleep(_ROOM_SECONDS)  # whoever is let in is heard to the end
            except asyncio.CancelledError:
                response.cancel()
                raise
            else:
                return heard


Recognisers = deployment(max_ongoing_requests=_MOST_AT_A_TIME, max_queued_requests=_MOST_AT_A_TIME)(RecogniserReplica)
# The ingress itself turns away what is too much, in OpenAI's shape; Ray's own bounds are there for when it hangs.
Transcriptions = deployment(max_ongoing_requests=4 * _MOST_AT_A_TIME, max_queued_requests=_MOST_AT_A_TIME)(
    ingress()(_Ingress)
)


def build(config: ServeConfig, model: Path) -> Application:
    """The application for a model file that was resolved already."""
    recognisers = Recognisers.options(
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    ).bind(model.absolute(), "cuda" if config.gpus_per_replica else "cpu", config.batching)
    return Transcriptions.options(ray_actor_options={"num_cpus": INGRESS_CPUS}).bind(config, recognisers)
