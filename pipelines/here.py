"""A few utterances made in this process, without a run: to hear them, or to measure what a run will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.config import SynthesisConfig
from pipelines.plan import Planner
from pipelines.synthesize import groups
from rayapp.errors import UserError
from rayapp.execution import DatasetGroup
from rayapp.ray_session import ray_session
from rayapp.records import Slot, Utterance
from rayapp.stage import run_stages
from rayapp.workers import pack, unpack


@dataclass
class Made:
    """What became of some slots."""

    finished: list[Utterance]
    clean: list[Utterance]
    """The same before augmentation: with the speech as the voice gave it."""
    seconds_by_stage: dict[str, float] = field(default_factory=dict)


def sample(planner: Planner, count: int) -> list[Slot]:
    """Slots evenly over a plan, so that every split, style and term has its share.

    Raises `UserError` for a plan without slots.
    """
    total = planner.slots
    if not total:
        raise UserError("the settings ask for no utterances: give manifests.sizes some")
    wanted = {round((index + 0.5) * total / count - 0.5) for index in range(min(count, total))}
    return [slot for index, slot in enumerate(planner.first()) if index in wanted]


def make_here(config: SynthesisConfig, slots: Sequence[Slot], *, untimed: int = 0) -> Made:
    """Take slots through the stages of a run; in this process, but for a language model on vLLM.

    untimed: so many of the first do not count in the seconds: they make the stages load what they need.
    """
    utterances = [Utterance(slot) for slot in slots]
    clean, seconds = utterances, dict[str, float]()
    for group in groups(config):
        if isinstance(group, DatasetGroup):
            utterances = _through(group, utterances)
            continue
        for make in group.stages:
            stage = make()
            first = run_stages([stage], utterances[:untimed])
            utterances = [*first, *run_stages([stage], utterances[untimed:], seconds)]
            if stage.name == "speech":
                clean = utterances
    return Made(utterances, clean, seconds)


def _through(group: DatasetGroup, utterances: Sequence[Utterance]) -> list[Utterance]:
    """By way of Ray Data's own operators, on a Ray that is started for it."""
    import ray

    with ray_session():
        made = group.apply(ray.data.from_arrow(pack(utterances)))
        return unpack(pa.concat_tables(ray.get(made.to_arrow_refs())))
