"""What a synthesis counts: Ray's agent on each node tells it to Prometheus.

Ray writes `ray_` before each name, and `_total` after those of counters. No label and no value holds audio or text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ray.util import metrics

from rayapp.records import Utterance, short_reason

_NEXT_TO_NOTHING = 1e-9
"""Ray's counters refuse 0, and Prometheus sees no rise in what was not there before."""


class SynthesisMetrics:
    """Of one worker."""

    def __init__(self, stages: Sequence[str]) -> None:
        """stages: that it will count."""
        self.utterances = metrics.Counter(
            "rayapp_synthesis_utterances", "Utterances that were committed.", tag_keys=("status",)
        )
        self.audio_seconds = metrics.Counter("rayapp_synthesis_audio_seconds", "Speech that was kept.")
        self.rejections = metrics.Counter(
            "rayapp_synthesis_rejections", "Utterances that were rejected.", tag_keys=("reason",)
        )
        self.stage_seconds = metrics.Counter(
            "rayapp_synthesis_stage_seconds", "For which the worker was busy with a stage.", tag_keys=("stage",)
        )
        for status in ("ok", "rejected"):
            self.utterances.inc(_NEXT_TO_NOTHING, {"status": status})
        self.audio_seconds.inc(_NEXT_TO_NOTHING)
        self.count_work(dict.fromkeys(stages, 0.0))

    def count_work(self, seconds: Mapping[str, float]) -> None:
        """seconds: by stage."""
        for stage, busy in seconds.items():
            self.stage_seconds.inc(busy + _NEXT_TO_NOTHING, {"stage": stage})

    def count_committed(self, utterances: Sequence[Utterance]) -> None:
        for status, rows in Counter(u.status for u in utterances).items():
            self.utterances.inc(rows, {"status": status})
        kept = sum(u.duration_seconds for u in utterances if u.status == "ok")
        self.audio_seconds.inc(kept + _NEXT_TO_NOTHING)
        for reason, rows in Counter(short_reason(u.reason) for u in utterances if u.reason).items():
            self.rejections.inc(rows, {"reason": reason})
