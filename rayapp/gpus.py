"""What settings ask of GPUs, known before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rayapp.config import StepConfig


@dataclass(frozen=True)
class GpuDemand:
    """What processes of one kind ask for."""

    setting: str
    """That says so, such as `speech.coqui.gpus`."""
    processes: int
    gpus: float
    """Of each process."""
    gpu_type: str | None
    """Ray's name; None takes any."""


def gpu_demands(settings: StepConfig, path: str = "") -> Iterator[GpuDemand]:
    """By the settings called `gpus` or `gpus_per_…`, of the sections that are in use.

    >>> class Speech(StepConfig):
    ...     workers: int = 4
    ...     gpus: float = 0.5
    ...     gpu_type: str = "L40S"
    >>> list(gpu_demands(Speech()))
    [GpuDemand(setting='gpus', processes=4, gpus=0.5, gpu_type='L40S')]
    """
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, StepConfig):
            if name not in settings.idle_sections():
                yield from gpu_demands(value, f"{path}{name}.")
        elif value and (name == "gpus" or name.startswith("gpus_per_")):
            yield GpuDemand(path + name, _processes(settings), value, getattr(settings, "gpu_type", None))


def _processes(settings: StepConfig) -> int:
    """A service says the most that it grows to."""
    scaling = getattr(settings, "scaling", None)
    return int(scaling.max_replicas if scaling else getattr(settings, "workers", 1))
