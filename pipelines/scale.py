"""How long a run would take on a cluster, how busy it would be and what it would cost, for any number of hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.capacity.config import GroupConfig, ScaleConfig
from pipelines.capacity.crew import Crew
from pipelines.capacity.fleet import places
from pipelines.capacity.outcome import Outcome
from pipelines.capacity.simulate import simulate
from pipelines.config import SynthesisConfig
from pipelines.estimate import Rates
from pipelines.synthesize import groups
from rayapp.errors import UserError
from rayapp.execution import AnyGroup, Group
from rayapp.stage import stage_class

_STEP = 0.1
"""By this share of its workers a group is widened, to tell what that would gain."""
_LEAST_GAIN = 0.01
"""Of the wall time: lost nodes alone make that much of a difference."""


@dataclass(frozen=True)
class Wider:
    """The same run with a tenth more workers in one group, and room for them."""

    group: str
    workers: int
    """More of them than it had at most."""
    wall_hours: float
    cost: float


@dataclass(frozen=True)
class Forecast:
    """A run of so many hours on a cluster."""

    hours: float
    """Of audio that is kept."""
    deadline_hours: float | None
    outcome: Outcome
    wider: Sequence[Wider]
    """Each group in turn."""
    rates: Rates

    @property
    def bottleneck(self) -> Wider | None:
        """What saves most time; None where no group alone holds the others up."""
        best = min(self.wider, key=lambda wider: wider.wall_hours)
        return best if best.wall_hours < (1 - _LEAST_GAIN) * self.outcome.wall_hours else None

    def as_json(self) -> dict[str, Any]:
        bottleneck = self.bottleneck
        return asdict(self) | {"bottleneck": bottleneck and bottleneck.group, "in_time": self.in_time}

    @property
    def in_time(self) -> bool | None:
        """Whether the deadline is met; None where there is none."""
        return None if self.deadline_hours is None else self.outcome.wall_hours <= self.deadline_hours


def forecast(config: SynthesisConfig, rates: Rates, scale: ScaleConfig) -> Forecast:
    """Simulate the run of these settings, as if it were planned for `scale.hours` of audio.

    Raises `UserError` for a group that `scale` does not place, one that the run does not have, a stage that no rate is
    known of, and for what `pipelines.capacity.simulate` refuses.
    """
    crews = _crews(groups(config), rates, scale)
    rounds = _rounds(scale.hours, rates, config.transcripts.rounds)
    outcome = simulate(crews, scale, rounds)
    wider = [_wider(crews, number, group.most_workers, scale, rounds) for number, group in enumerate(outcome.groups)]
    return Forecast(scale.hours, scale.deadline_hours, outcome, wider, rates)


def _rounds(hours: float, rates: Rates, most: int) -> list[int]:
    """The slots of each round: what is rejected is planned again, so that so much is kept after the last one."""
    if rates.kept_share * rates.audio_seconds == 0:
        raise UserError(f"{rates.measured_on} came to no audio: take the rates of a run that kept some")
    rejected = 1 - rates.kept_share
    first = hours * 3600 / rates.audio_seconds / (1 - rejected**most)
    slots = [round(first * rejected**number) for number in range(most)]
    return [max(slots[0], 1), *(count for count in slots[1:] if count)]


def _crews(run: Sequence[AnyGroup], rates: Rates, scale: ScaleConfig) -> list[Crew]:
    names = [_stages(group)[0] for group in run]
    if unknown := [name for name in scale.groups if name not in names]:
        raise UserError(
            f"groups.{unknown[0]} is no group of this run; a group goes by the name of its first stage: "
            f"{', '.join(names)}"
        )
    if missing := [name for name in names if name not in scale.groups]:
        raise UserError(
            f"groups has nothing for {', '.join(missing)}: say which node its workers run on, such as "
            f"groups.{missing[0]}.node = {next(iter(scale.nodes))} (known nodes: {', '.join(scale.nodes)})"
        )
    return [_crew(group, rates, scale.groups[name]) for group, name in zip(run, names, strict=True)]


def _crew(group: AnyGroup, rates: Rates, placed: GroupConfig) -> Crew:
    stages = _stages(group)
    fewest = placed.min_workers or min(group.workers, placed.max_workers or group.workers)
    return Crew(
        name=stages[0],
        node=placed.node,
        cpus=group.resources.cpus,
        gpus=group.resources.gpus,
        seconds=placed.seconds_per_utterance or _measured(stages, rates),
        min_workers=fewest,
        max_workers=placed.max_workers or max(group.workers, fewest),
        load_seconds=placed.load_seconds,
        queue=placed.queue,
        measured=placed.seconds_per_utterance is None,
    )


def _stages(group: AnyGroup) -> list[str]:
    return [stage_class(stage).name for stage in group.stages] if isinstance(group, Group) else [group.name]


def _measured(stages: Sequence[str], rates: Rates) -> float:
    if unknown := [name for name in stages if not rates.seconds_by_stage.get(name)]:
        raise UserError(
            f"no rate is known of {', '.join(unknown)} (rates: {rates.measured_on}): take the rates of a run that had "
            f"it, or assume some by groups.{stages[0]}.seconds_per_utterance, of {' + '.join(stages)} together"
        )
    return sum(rates.seconds_by_stage[name] for name in stages)


def _wider(crews: Sequence[Crew], number: int, had: int, scale: ScaleConfig, rounds: Sequence[int]) -> Wider:
    """Simulate it with more workers in one of the crews, which had so many at most."""
    crew = crews[number]
    workers = math.ceil(_STEP * had)
    fixed = crew.min_workers == crew.max_workers
    more = replace(
        crew, max_workers=crew.max_workers + workers, min_workers=crew.min_workers + (workers if fixed else 0)
    )
    node = scale.nodes[crew.node]
    room = node.model_copy(update={"max_nodes": node.max_nodes + math.ceil(workers / places(crew, node))})
    again = simulate(
        [*crews[:number], more, *crews[number + 1 :]],
        scale.model_copy(update={"nodes": scale.nodes | {crew.node: room}}),
        rounds,
    )
    return Wider(crew.name, workers, again.wall_hours, again.cost.total)
