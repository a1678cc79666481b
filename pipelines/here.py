"""A few utterances made in this process, without a run: to hear them, or to measure what a run will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import SynthesisConfig
from pipelines.plan import Planner
from pipelines.synthesize import groups
from rayapp.errors import UserError
from rayapp.execution import DatasetGroup
from rayapp.ray_session import ray_session
from rayapp.records import Slot, Utterance
from rayapp.stage import run_stages
from rayapp.workers import BUSY_SECONDS, StageProgress, pack, unpack


@dataclass
class Made:
    """What became of some slots."""

    finished: list[Utterance]
    clean: list[Utterance]
    """The same before augmentation: with the speech as the voice gave it."""
    stages: dict[str, StageProgress] = field(default_factory=dict)
    """How many each stage was timed on, and how long it took; without those that do not tell."""


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
    """Take slots through the stages of a run; in this process, but for what Ray Data's own operators do.

    untimed: so many of the first do not count in the seconds: they make the stages load what they need. Operators
        have loaded before they begin, and all count.
    """
    utterances = [Utterance(slot) for slot in slots]
    clean, stages = utterances, dict[str, StageProgress]()
    for group in groups(config):
        if isinstance(group, DatasetGroup):
            with ray_session():
                utterances, busy_seconds = through_operators(group, utterances)
            if busy_seconds is not None:
                stages[group.name] = StageProgress(len(utterances), busy_seconds)
            continue
        for make in group.stages:
            stage, seconds = make(), dict[str, float]()
            first = run_stages([stage], utterances[:untimed])
            timed = run_stages([stage], utterances[untimed:], seconds)
            utterances, stages[stage.name] = [*first, *timed], StageProgress(len(timed), seconds[stage.name])
            if stage.name == "speech":
                clean = utterances
    return Made(utterances, clean, stages)


def through_operators(group: DatasetGroup, utterances: Sequence[Utterance]) -> tuple[list[Utterance], float | None]:
    """What a group of Ray Data's own operators makes of utterances, and how long it was busy, where it tells."""
    import ray

    made = pa.concat_tables(ray.get(group.apply(ray.data.from_arrow(pack(utterances))).to_arrow_refs()))
    tells = BUSY_SECONDS in made.column_names
    return unpack(made), pc.sum(made[BUSY_SECONDS]).as_py() if tells else None
