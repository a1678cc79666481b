"""Do the stages of a run overlap? Four stages that take equally long, each in a worker of its own, as if on GPUs.

They sleep, so that nothing but the stream is measured. `wall_over_slowest` is the time of the whole run over that of
the slowest stage run alone (1 would be perfect), `wall_over_sum` over all stages run one after the other, each ended
before the next begins. Starting Ray and the workers does not count: a run begins when its first utterance is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from typing import Any

import pyarrow.dataset as ds

from benchmarks.stages import Humming, Sleep, times_table
from rayapp.execution import Group, run_plan
from rayapp.plan import write_plan
from rayapp.ray_session import ray_session


def run(plan: str, shards: str, stages: int, seconds: float) -> float:
    """Seconds from the first utterance's start to the last one's end."""
    for _ in run_plan(plan, [Group([partial(Sleep, seconds)]) for _ in range(stages)], shards, times_table):
        pass
    times = ds.dataset(shards).to_table(columns=["started", "ended"])
    return float(max(times["ended"].to_pylist()) - min(times["started"].to_pylist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--utterances", type=int, default=3200)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--milliseconds", type=float, default=10.0, help="of each stage, per utterance")
    arguments = parser.parse_args()
    seconds = arguments.milliseconds / 1000
    with tempfile.TemporaryDirectory() as folder, ray_session("local"):
        plan = f"{folder}/plan"
        write_plan(Humming(arguments.utterances).first(), plan)
        together = run(plan, f"{folder}/together", arguments.stages, seconds)
        each = [run(plan, f"{folder}/{number}", 1, seconds) for number in range(arguments.stages)]
    report: dict[str, Any] = {
        "wall_over_slowest": round(together / max(each), 3),
        "wall_over_sum": round(together / sum(each), 3),
        "wall_seconds": round(together, 1),
        "stage_seconds": [round(seconds, 1) for seconds in each],
        "conditions": {name: value for name, value in vars(arguments).items() if name != "json"},
    }
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
