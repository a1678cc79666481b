"""The application: an ingress that speaks OpenAI's API, and recognisers behind it.

`serve deploy` starts it from `app`, and `rayapp serve` from `build`.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError
from ray.serve import Application, deployment, get_replica_context, ingress, status
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rayapp.asr.context import Context
from rayapp.errors import UserError
from rayapp.inside import require_inside
from rayapp.tracking import DEFAULT_HOME
from serve.api import build_api
from serve.config import ServeConfig
from serve.metrics import IngressMetrics
from serve.models import Catalogue, ServedModel
from serve.recogniser import RecogniserReplica
from serve.run import checked
from serve.scaling import autoscaling
from serve.transcription import Answer, Refusal, Samples

INGRESS_CPUS = 0.1
_MOST_AT_A_TIME = 512
"""Pieces in a replica, those that wait included: its batches are made of them. The queue's bound is in seconds."""
_ROOM_SECONDS = 1.0
"""After which there may be room again."""
_MOST_DEATHS = 1
"""Of recognisers, that a piece survives: it may be what they died of."""
_DRAIN_SECONDS = 600.0
"""For which a copy that is to go may work on what it has. An hour of audio takes an ingress minutes."""
_DRAIN_LOOK_SECONDS = 0.5
"""After which it looks again whether anything is left."""
_LOGGING = {"encoding": "JSON", "log_level": "INFO", "enable_access_log": False}
"""One line of each request, see `serve.observation`; Ray's own would have the path as the client wrote it."""
_log = logging.getLogger(f"ray.{__name__}")


class _Ingress:
    """Takes uploads in, and asks the recognisers."""

    def __init__(self, config: ServeConfig, home: Path, recognisers: DeploymentHandle) -> None:
        self._config, self._home, self._handle = config, home, recognisers
        self._metrics = IngressMetrics()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_api(self._config, Catalogue(self._config, self._home), self, self._metrics)

    async def prepare(self, model: ServedModel) -> None:
        """See `serve.transcription.Recognisers`, and so the others."""
        await self._having(model.id).prepare.remote(model)

    async def is_ready(self) -> bool:
        # The controller is asked: a recogniser that has all it can take would not answer in time.
        if not self._config.scaling.min_replicas:  # whoever asks wakes one up
            return True
        application = get_replica_context().app_name
        deployments = (await asyncio.to_thread(status)).applications[application].deployments
        return bool(deployments[RecogniserDeployment.name].replica_states.get("RUNNING"))

    async def transcribe(
        self, model_id: str, samples: Samples, stream: str, admitted: bool, context: Context
    ) -> Answer:
        died = 0
        while True:
            response = self._having(model_id).transcribe.remote(samples, stream, admitted, context)
            try:
                heard: Answer = await response
            except BackPressureError:
                if not admitted:
                    return Refusal(_ROOM_SECONDS)
                await asyncio.sleep(_ROOM_SECONDS)  # whoever is let in is heard to the end
            except (RayActorError, AioRpcError):
                died += 1
                if died > _MOST_DEATHS:
                    raise
                self._metrics.lost_recognisers.inc()
                _log.warning("a recogniser was lost while it listened; another one is asked")
            except asyncio.CancelledError:
                response.cancel()
                raise
            else:
                return heard

    def _having(self, model_id: str) -> DeploymentHandle:
        """The recognisers, those first that have the model loaded."""
        return self._handle.options(multiplexed_model_id=model_id)


RecogniserDeployment = deployment(
    max_ongoing_requests=_MOST_AT_A_TIME,
    max_queued_requests=_MOST_AT_A_TIME,
    logging_config=_LOGGING,
    graceful_shutdown_timeout_s=_DRAIN_SECONDS,
    graceful_shutdown_wait_loop_s=_DRAIN_LOOK_SECONDS,
)(RecogniserReplica)
# The ingress itself turns away what is too much, in OpenAI's shape; Ray's own bounds are there for when it hangs.
IngressDeployment = deployment(
    max_ongoing_requests=4 * _MOST_AT_A_TIME,
    max_queued_requests=_MOST_AT_A_TIME,
    logging_config=_LOGGING,
    graceful_shutdown_timeout_s=_DRAIN_SECONDS,
    graceful_shutdown_wait_loop_s=_DRAIN_LOOK_SECONDS,
    max_surge_percent=100,
)(ingress()(_Ingress))


def build(config: ServeConfig, home: Path) -> Application:
    """The application for settings that were checked already.

    home: folder of the registry, on every node, unless `MLFLOW_TRACKING_URI` names another one.
    """
    recognisers = RecogniserDeployment.options(
        autoscaling_config=autoscaling(config.scaling),
        max_surge_percent=100 if config.scaling.spare_copy else 0,
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            **({"accelerator_type": config.gpu_type} if config.gpu_type and config.gpus_per_replica else {}),
        },
    ).bind(config, home.absolute())
    return IngressDeployment.options(num_replicas=config.ingresses, ray_actor_options={"num_cpus": INGRESS_CPUS}).bind(
        config, home.absolute(), recognisers
    )


def app(settings: dict[str, Any]) -> Application:
    """The application for settings that `serve run` and `serve deploy` are given as arguments.

    Where it listens is theirs to say: `host` and `port` are not looked at.
    """
    config = ServeConfig.model_validate(settings)
    require_inside(config)
    if not (config.keys_file or config.allow_anonymous):
        raise UserError(
            "Serve listens where its http_options say, which may be reached from other machines: set keys_file, or "
            "allow_anonymous: true where a gateway in front of it asks for keys"
        )
    return build(checked(config, DEFAULT_HOME), DEFAULT_HOME)
