"""Does the simulated cluster take as long as a real one? Three groups of stages that sleep, with 1, 2 and 4 workers in
the slowest one: run by Ray on this machine, and simulated.

The rates are what the first run left in its summary, as `rayapp plan --rates` reads them; the other runs are told from
it. A run is timed from its first utterance's start to its last one's end, with all workers there before: how long
workers take to start on a machine that has fewer cores than workers says nothing of a cluster. So the simulated ones
start at once, too. `error` is the simulated time over the measured one, less 1; it is to stay within 0.15. `naive` is
the same of the work of the slowest group, shared out evenly.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow.dataset as ds

from benchmarks.stages import Humming, Sleep, times_table
from pipelines.capacity.config import GroupConfig, NodeConfig, ScaleConfig
from pipelines.capacity.crew import Crew
from pipelines.capacity.simulate import simulate
from rayapp.execution import Group, run_plan
from rayapp.plan import write_plan
from rayapp.ray_session import ray_session
from rayapp.workers import StageProgress


class Write(Sleep):
    """Stands for the group that writes."""

    name = "write"


class Speak(Sleep):
    """Stands for the group that speaks, the slowest one."""

    name = "speak"


class Listen(Sleep):
    """Stands for the group that listens."""

    name = "listen"


STAGES = (Write, Speak, Listen)


def measured(
    plan: str, shards: str, seconds: Sequence[float], workers: Sequence[int]
) -> tuple[float, dict[str, StageProgress]]:
    """Seconds from the first utterance's start to the last one's end, and how long each stage was busy."""
    import ray

    ray.data.DataContext.get_current().wait_for_min_actors_s = 120  # else it begins with the first worker
    groups = [Group([partial(stage, each)], n) for stage, each, n in zip(STAGES, seconds, workers, strict=True)]
    *_, summary = run_plan(plan, groups, shards, times_table)
    times = ds.dataset(shards).to_table(columns=["started", "ended"])
    return max(times["ended"].to_pylist()) - min(times["started"].to_pylist()), summary.stages


def simulated(slots: int, rates: Mapping[str, float], workers: Sequence[int]) -> float:
    """Seconds that the simulation takes for it, with workers that are there from the start."""
    crews = [Crew(name, "here", 0.1, 0.0, rate, n, n) for (name, rate), n in zip(rates.items(), workers, strict=True)]
    scale = ScaleConfig(
        hours=1,
        planned_per_second=1e12,
        nodes={"here": NodeConfig(cpus=64, price_hour=0, boot_minutes=0, max_nodes=1)},
        groups={name: GroupConfig(node="here") for name in rates},
    )
    return simulate(crews, scale, [slots]).wall_hours * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--utterances", type=int, default=960)
    parser.add_argument("--milliseconds", type=float, nargs=3, default=(8.0, 40.0, 14.0), help="of each group, each")
    arguments = parser.parse_args()
    seconds = [milliseconds / 1000 for milliseconds in arguments.milliseconds]
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ray_session("local"):
        plan = f"{folder}/plan"
        write_plan(Humming(arguments.utterances).first(), plan)
        rates: dict[str, float] = {}
        for slowest in (1, 2, 4):
            workers = (1, slowest, 1)
            wall, busy = measured(plan, f"{folder}/{slowest}", seconds, workers)
            rates = rates or {stage.name: busy[stage.name].busy_seconds / busy[stage.name].rows for stage in STAGES}
            told = simulated(arguments.utterances, rates, workers)
            naive = arguments.utterances * rates["speak"] / slowest
            report[f"workers_{slowest}"] = {
                "measured_seconds": round(wall, 2),
                "simulated_seconds": round(told, 2),
                "error": round(told / wall - 1, 3),
                "naive": round(naive / wall - 1, 3),
            }
    report["rates"] = {name: round(rate, 5) for name, rate in rates.items()}
    report["conditions"] = {name: value for name, value in vars(arguments).items() if name != "json"}
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
