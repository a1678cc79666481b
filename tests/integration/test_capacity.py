"""The simulated cluster beside a real one, of workers on this machine."""

import tempfile
import time

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from pipelines.capacity.config import GroupConfig, NodeConfig, ScaleConfig
from pipelines.capacity.crew import Crew
from pipelines.capacity.simulate import simulate
from rayapp.execution import Group, run_plan
from rayapp.plan import write_plan
from rayapp.stage import Resources, Stage

pytestmark = [pytest.mark.slow, pytest.mark.alone]
SLOTS = {1: 5 * 32, 2: 9 * 32, 4: 17 * 32}
"""Of the plan for so many speakers: some 8 s of work, in bundles that cannot be shared out evenly."""


@pytest.fixture(scope="module")
def stages():
    """Two stages that sleep and say when; defined here, so that they travel by value."""

    class Speak(Stage):
        name = "speak"
        version = 1
        resources = Resources(cpus=0.1, memory_gb=0.1)
        seconds = 0.050

        def __call__(self, utterance):
            started = time.time()
            time.sleep(self.seconds)
            return utterance.with_step(self.name, self.version, started=started, ended=time.time())

    class Listen(Speak):
        name = "listen"
        seconds = 0.015

    return Speak, Listen


@pytest.fixture(scope="module")
def table():
    """When the first stage began and the last one ended with each utterance."""

    def times(utterances):
        return pa.Table.from_pylist(
            [
                {
                    "slot_id": u.slot.slot_id,
                    "duration_seconds": 0.0,
                    "status": u.status,
                    "reason": u.reason,
                    "started": u.steps[0].params["started"],
                    "ended": u.steps[-1].params["ended"],
                }
                for u in utterances
            ]
        )

    return times


@pytest.fixture
def real(ray, slot, stages, table, tmp_path, monkeypatch):
    """Run a plan with so many speakers and one listener; returns the seconds that it took, and the rates of its stages.

    All workers are there before the first utterance is taken: how long they take to start on a machine with fewer
    cores than workers says nothing of a cluster.
    """
    import ray as real_ray

    monkeypatch.setattr(real_ray.data.DataContext.get_current(), "wait_for_min_actors_s", 120)

    def run(speakers):
        speak, listen = stages
        folder = tempfile.mkdtemp(dir=tmp_path)
        write_plan((slot(slot_id=f"{number:016x}", seed=number) for number in range(SLOTS[speakers])), f"{folder}/plan")
        groups = [Group([speak], speakers), Group([listen])]
        *_, summary = run_plan(f"{folder}/plan", groups, f"{folder}/shards", table)
        times = ds.dataset(f"{folder}/shards").to_table(columns=["started", "ended"])
        rates = {name: stage.busy_seconds / stage.rows for name, stage in summary.stages.items()}
        return max(times["ended"].to_pylist()) - min(times["started"].to_pylist()), rates

    return run


def simulated(rates, speakers):
    crews = [Crew(name, "here", 0.1, 0, rates[name], n, n) for name, n in (("speak", speakers), ("listen", 1))]
    scale = ScaleConfig(
        hours=1,
        planned_per_second=1e12,
        nodes={"here": NodeConfig(cpus=64, price_hour=0, boot_minutes=0, max_nodes=1)},
        groups={name: GroupConfig(node="here") for name in rates},
    )
    return simulate(crews, scale, [SLOTS[speakers]]).wall_hours * 3600


def test_a_simulated_run_takes_as_long_as_a_real_one_with_1_2_and_4_workers(real):
    seconds, rates = real(speakers=1)
    errors = {1: simulated(rates, 1) / seconds - 1}
    for speakers in (2, 4):
        errors[speakers] = simulated(rates, speakers) / real(speakers)[0] - 1
    for speakers in [each for each, error in errors.items() if error < -0.15]:
        # Once more: a machine that has other things to do only ever makes a real run slower.
        errors[speakers] = simulated(rates, speakers) / real(speakers)[0] - 1
    assert {speakers: error for speakers, error in errors.items() if abs(error) > 0.15} == {}
