"""What a training counts: Ray's agent on each node tells it to Prometheus.

Ray writes `ray_` before each name, and `_total` after those of counters. No label and no value holds audio or text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from ray.util.metrics import Counter, Gauge

Outcome: TypeAlias = Literal["learnt", "not_finite", "unfit"]
_NEXT_TO_NOTHING = 1e-9
"""Ray's counters refuse 0, and Prometheus sees no rise in what was not there before."""


class TrainingMetrics:
    """Of one rank. What is alike on all ranks, the first one tells."""

    def __init__(self, training: str) -> None:
        """training: its name; several may run on a cluster."""
        self.labels = {"training": training}
        self.steps = Counter("rayapp_training_steps", "Steps of each rank.", ("training", "outcome"))
        self.audio_seconds = Counter("rayapp_training_audio_seconds", "Audio that was learnt from.", ("training",))
        self.gauges = {
            "loss": Gauge("rayapp_training_loss", "Of the last step, over all ranks.", ("training",)),
            "learning_rate": Gauge("rayapp_training_learning_rate", "Of the last step.", ("training",)),
            "validation_wer": Gauge("rayapp_training_validation_wer", "Of the last validation.", ("training",)),
            "checkpoint_at": Gauge(
                "rayapp_training_checkpoint_timestamp_seconds", "When the last one was written.", ("training",)
            ),
        }
        self.shown: dict[str, float] = {}
        for outcome in get_args(Outcome):
            self.steps.inc(_NEXT_TO_NOTHING, {**self.labels, "outcome": outcome})

    def count(self, outcome: Outcome, audio_seconds: float = 0.0) -> None:
        """A step; audio_seconds: that this rank learnt from in it."""
        self.steps.inc(1, {**self.labels, "outcome": outcome})
        if audio_seconds:
            self.audio_seconds.inc(audio_seconds, self.labels)
        self.show(self.shown)  # Ray drops a gauge that is not set anew for some 20 seconds

    def show(self, figures: Mapping[str, Any]) -> None:
        """Those of them that are watched."""
        self.shown |= {name: figures[name] for name in self.gauges if name in figures}
        for name, value in self.shown.items():
            self.gauges[name].set(value, self.labels)
