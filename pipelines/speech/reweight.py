"""Who should speak how often in the next round: accents that are heard badly more, and none not at all."""

from __future__ import annotations

import json
from typing import Any

from pipelines.speech.config import SpeechConfig
from rayapp.storage import join, open_filesystem, require_complete


def reweighted_accents(speech: SpeechConfig, evaluation: str, name: str, floor: float) -> SpeechConfig:
    """The settings with new weights of the accents that training hears and the evaluation judged.

    A weight is the accent's own times its word error rate over the mean of all accents; at least `floor` times its own.

    evaluation: a folder that `rayapp evaluate` wrote. name: the set whose errors count.
    """
    require_complete(evaluation, "evaluation")
    filesystem, path = open_filesystem(join(evaluation, "report.json"))
    with filesystem.open_input_stream(path) as file:
        told: dict[str, Any] = json.loads(file.read())["sets"].get(name, {})
    groups = told.get("slices", {}).get("accent", {})
    rates = {accent: groups[accent]["wer"]["after"] for accent in speech.trained_accents if accent in groups}
    rates = {accent: rate[0] for accent, rate in rates.items() if rate is not None}
    mean = sum(rates.values()) / max(len(rates), 1)
    if not mean:
        return speech
    own = speech.accent_weights
    weights = {accent: round(own.get(accent, 1.0) * max(rate / mean, floor), 4) for accent, rate in rates.items()}
    return speech.model_copy(update={"accent_weights": own | weights})
