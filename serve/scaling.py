"""How many copies of the recogniser there should be: as many as have enough to listen to.

Ray counts requests. One may be a second of audio or half a minute, so replicas count seconds.
"""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serve.config import ScalingConfig

PENDING_SECONDS = "pending_audio_seconds"
"""What a replica tells of itself: how much audio waits in it or is listened to."""
_REPORT_SECONDS, _LOOK_BACK_SECONDS = 1.0, 5.0


class PendingAudioPolicy:
    """So many replicas that each has no more than its target. Ray keeps the bounds and the delays."""

    def __init__(self, target_seconds: float) -> None:
        self.target_seconds = target_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        told = (context.aggregated_metrics or {}).get(PENDING_SECONDS, {})
        return math.ceil(sum(told.values()) / self.target_seconds), {}


def autoscaling(config: ScalingConfig) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=config.min_replicas,
        max_replicas=config.max_replicas,
        upscale_delay_s=config.upscale_delay_seconds,
        downscale_delay_s=config.downscale_delay_seconds,
        metrics_interval_s=_REPORT_SECONDS,
        look_back_period_s=_LOOK_BACK_SECONDS,
        policy=AutoscalingPolicy(
            policy_function=PendingAudioPolicy, policy_kwargs={"target_seconds": config.target_pending_seconds}
        ),
    )
