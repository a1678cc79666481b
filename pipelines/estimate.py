"""What a run will make and cost, told before it starts: from its plan, and from rates that were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.config import SynthesisConfig
from pipelines.here import make_here, sample
from pipelines.plan import Planner
from pipelines.synthesize import SUMMARY, groups
from rayapp.audio.codec import encode_flac
from rayapp.errors import UserError
from rayapp.execution import Group
from rayapp.storage import join, open_filesystem
from rayapp.workers import StageProgress

_UNTIMED = 4


@dataclass(frozen=True)
class Rates:
    """What one utterance takes, on average."""

    measured_on: str
    audio_seconds: float
    bytes: float
    seconds_by_stage: Mapping[str, float]
    """What it keeps each stage busy. Of an engine that answers many requests at once (vLLM): the time in which it had
    any to answer, divided by their number. The more it has at a time the less that is, so what a few utterances tell
    is the most that it will be."""
    kept_share: float
    """Of the utterances; the others are rejected."""


@dataclass(frozen=True)
class Estimate:
    """A run, before it starts."""

    utterances: dict[str, dict[str, int]]
    """By split and style."""
    slots: int
    """Of the first round."""
    slots_over_rounds: int
    """That it expects to fill over all rounds, in which what was rejected is planned again; the figures below are of
    all these."""
    hours: float
    gigabytes: float
    cpu_hours: float
    gpu_hours: float
    wall_hours: float
    """With the workers that the settings give to each group of stages."""
    price: float | None
    """None where the settings give no prices."""
    not_measured: tuple[str, ...]
    """Stages that no rate is known of: what they cost comes on top."""
    rates: Rates


def measure_rates(config: SynthesisConfig, planner: Planner, count: int) -> Rates:
    """Make a few utterances here and now.

    Raises `UserError` where none of them can be made.
    """
    slots = sample(planner, count + _UNTIMED)
    timed = max(len(slots) - _UNTIMED, 0)
    made = make_here(config, slots, untimed=_UNTIMED if timed else 0)
    kept = [utterance for utterance in made.finished if utterance.audio is not None]
    if not kept:
        raise UserError(f"none of {count} utterances could be made: {made.finished[0].reason}")
    return Rates(
        measured_on=f"{len(made.finished)} utterances made here now",
        audio_seconds=sum(u.duration_seconds for u in kept) / len(kept),
        bytes=sum(len(encode_flac(u.audio)) for u in kept if u.audio is not None) / len(kept),
        seconds_by_stage=_per_utterance(made.stages),
        kept_share=len(kept) / len(made.finished),
    )


def rates_of_run(manifest: str) -> Rates:
    """What an earlier run took, from the summary that it left in its manifest."""
    filesystem, path = open_filesystem(join(manifest, SUMMARY))
    try:
        with filesystem.open_input_stream(path) as stream:
            told = json.loads(stream.read())
    except OSError as error:
        raise UserError(f"{manifest} has no {SUMMARY} of an earlier run to take rates from: {error}") from None
    return Rates(
        measured_on=f"the {told['slots']} utterances of {manifest}",
        audio_seconds=told["audio_seconds"] / max(told["kept"], 1),
        bytes=told["bytes"] / max(told["kept"], 1),
        seconds_by_stage=_per_utterance({name: StageProgress(**stage) for name, stage in told["stages"].items()}),
        kept_share=told["kept"] / max(told["slots"], 1),
    )


def _per_utterance(stages: Mapping[str, StageProgress]) -> dict[str, float]:
    return {name: stage.busy_seconds / max(stage.rows, 1) for name, stage in stages.items()}


def estimate(config: SynthesisConfig, planner: Planner, rates: Rates) -> Estimate:
    """Add up a run from its plan and the rates, over all its rounds."""
    slots = planner.slots * sum((1 - rates.kept_share) ** number for number in range(config.transcripts.rounds))
    kept = slots * rates.kept_share
    cpu_hours = gpu_hours = wall_hours = 0.0
    unknown: list[str] = []
    for group in groups(config):
        names = [getattr(s, "func", s).name for s in group.stages] if isinstance(group, Group) else [group.name]
        unknown += [name for name in names if name not in rates.seconds_by_stage]
        busy = slots * sum(rates.seconds_by_stage.get(name, 0.0) for name in names) / 3600
        cpu_hours += busy * group.resources.cpus
        gpu_hours += busy * group.resources.gpus
        wall_hours = max(wall_hours, busy / group.workers)
    prices = config.prices
    return Estimate(
        utterances=planner.counts(),
        slots=planner.slots,
        slots_over_rounds=round(slots),
        hours=kept * rates.audio_seconds / 3600,
        gigabytes=kept * rates.bytes / 1e9,
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        wall_hours=wall_hours,
        price=cpu_hours * prices.cpu_hour + gpu_hours * prices.gpu_hour if prices else None,
        not_measured=tuple(unknown),
        rates=rates,
    )
