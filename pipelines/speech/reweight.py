"""Who should speak how often in the next round: accents that are heard badly more, and none not at all."""

from __future__ import annotations

import json
from typing import Any

from pipelines.speech.config import SpeechConfig
from rayapp.storage import join, open_filesystem, require_complete

_DRAWN = 10
"""Utterances that speak for the mean."""


def reweighted_accents(speech: SpeechConfig, evaluation: str, name: str, floor: float) -> SpeechConfig:
    """The settings with new weights of the accents that training hears and the evaluation judged.

    A weight is the accent's own times its word error rate over the mean of its language's accents; at least `floor`
    times its own. The rate of an accent that few utterances have is drawn to that mean, as by ten more of them.

    evaluation: a folder that `rayapp evaluate` wrote. name: the set whose errors count.
    """
    require_complete(evaluation, "evaluation")
    filesystem, path = open_filesystem(join(evaluation, "report.json"))
    with filesystem.open_input_stream(path) as file:
        told: dict[str, Any] = json.loads(file.read())["sets"].get(name, {})
    groups = told.get("slices", {}).get("accent", {})
    weights = dict(speech.accent_weights)
    for accents in speech.trained_accents.values():
        judged = [accent for accent in accents if accent in groups and groups[accent]["wer"]["after"]]
        rates = {accent: groups[accent]["wer"]["after"][0] for accent in judged}
        mean = sum(rates.values()) / max(len(rates), 1)
        for accent, rate in rates.items():
            count = groups[accent]["utterances"]
            drawn = (count * rate + _DRAWN * mean) / (count + _DRAWN)
            if mean:
                weights[accent] = round(weights.get(accent, 1.0) * max(drawn / mean, floor), 4)
    return speech.model_copy(update={"accent_weights": weights})
