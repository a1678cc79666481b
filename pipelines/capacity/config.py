"""Settings of the cluster that `rayapp plan --scale` simulates.

Light: only pydantic is imported.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rayapp.config import StepConfig


class SpotConfig(StepConfig):
    """What a cheaper node costs, that its owner may take back at any moment."""

    price_hour: float = Field(ge=0)
    """An hour of one node, in place of the usual price."""
    interruptions_per_hour: float = Field(ge=0)
    """How often one is taken back: 0.05 is once in 20 hours, on average."""


class NodeConfig(StepConfig):
    """A kind of node that the cluster can have."""

    cpus: float = Field(gt=0)
    """That workers can have; without what the system keeps for itself."""
    gpus: float = Field(default=0.0, ge=0)
    """That workers can have."""
    price_hour: float = Field(ge=0)
    """An hour of one node, from when it is asked for until it is given back; in any currency."""
    spot: SpotConfig | None = None
    """Where there is one, all nodes of this kind are such ones."""
    failures_per_hour: float = Field(default=0.0, ge=0)
    """How often a node fails by itself."""
    boot_minutes: float = Field(default=3.0, ge=0)
    """From when a node is asked for until workers can start on it, with the pull of the image."""
    max_nodes: int = Field(ge=1)
    """As many as there can be at a time: a quota, or what is free."""

    @property
    def rent_per_hour(self) -> float:
        """What one costs, as it is rented."""
        return self.spot.price_hour if self.spot else self.price_hour

    @property
    def losses_per_hour(self) -> float:
        """How often one is lost, for whatever reason."""
        return self.failures_per_hour + (self.spot.interruptions_per_hour if self.spot else 0.0)


class GroupConfig(StepConfig):
    """Where a group of stages runs, and in how many workers."""

    node: str
    """Which of `nodes` its workers run on; groups that name the same one share its nodes."""
    min_workers: int | None = Field(default=None, ge=1)
    """Kept all the time; without it, the workers that the settings of the run give to the group."""
    max_workers: int | None = Field(default=None, ge=1)
    """Doubled up to so many while more bundles wait than there are workers; without it, the workers of the run's
    settings, or `min_workers` where that is more. The run itself keeps as many as its settings say."""
    seconds_per_utterance: float | None = Field(default=None, gt=0)
    """Of one worker, for all stages of the group; without it, as measured. Say beside it where it comes from."""
    load_seconds: float = Field(default=30.0, ge=0)
    """From when a worker starts until it takes its first utterance: imports, and loading a model."""
    queue: int = Field(default=2, ge=1)
    """Bundles that may wait in front of each of `max_workers`; where there are as many, the group before waits."""

    @model_validator(mode="after")
    def _workers_are_ordered(self) -> Self:
        if self.min_workers and self.max_workers and self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above max_workers ({self.max_workers}); swap them")
        return self


class ScaleConfig(StepConfig):
    """A cluster, and how much speech it is to make."""

    hours: float = Field(gt=0)
    """Of audio that is kept."""
    deadline_hours: float | None = Field(default=None, gt=0)
    """How long it may take; without it, as long as it takes."""
    seed: int = 0
    """Another seed loses other nodes at other times."""
    idle_minutes: float = Field(default=5.0, ge=0)
    """A worker beyond `min_workers` without work is given back after so long, and so is a node without workers."""
    planned_per_second: float = Field(default=5000.0, gt=0)
    """Slots that the driver plans before each round, alone; 5,500 were measured on one core of a 2-core machine."""
    nodes: dict[str, NodeConfig] = Field(min_length=1)
    """Kinds of nodes, by a name of your choice."""
    groups: dict[str, GroupConfig] = Field(min_length=1)
    """Groups of stages, each by the name of its first stage."""

    @model_validator(mode="after")
    def _nodes_are_known(self) -> Self:
        for name, group in self.groups.items():
            if group.node not in self.nodes:
                raise ValueError(f"groups.{name}.node = {group.node!r} is none of nodes: {', '.join(self.nodes)}")
        return self
