"""Workers that die, and workers that cannot begin: what becomes of the run."""

import os
import signal

import pyarrow.parquet as pq
import pytest

from pipelines.manifests.rows import manifest_table
from rayapp.errors import UserError
from rayapp.execution import Group, run_plan
from rayapp.plan import write_plan
from rayapp.records import SAMPLE_RATE_HZ
from rayapp.stage import Resources, Stage

pytestmark = pytest.mark.slow


@pytest.fixture
def plan(slot, tmp_path):
    write_plan((slot(slot_id=f"{number:016x}", seed=number) for number in range(40)), str(tmp_path / "plan"))
    return str(tmp_path / "plan")


@pytest.fixture
def hum():
    """A stage whose process is killed on the seeds that it is given; defined here, so that it travels by value."""

    class Hum(Stage):
        name = "hum"
        version = 1
        resources = Resources(cpus=1.0, memory_gb=0.1)
        deadly = ()

        def __call__(self, utterance):
            import numpy as np

            if utterance.slot.seed in self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return utterance.with_audio(0.1 * np.sin(np.arange(SAMPLE_RATE_HZ // 2) / 20))

    return Hum


def made(plan, stage, tmp_path):
    *_, summary = run_plan(plan, [Group([stage], workers=1)], str(tmp_path / "blocks"), manifest_table)
    return summary


def test_an_utterance_that_kills_its_process_is_rejected_and_costs_no_other(ray, plan, hum, tmp_path):
    hum.deadly = (7,)
    summary = made(plan, hum, tmp_path)
    assert summary.committed == 40
    assert summary.rejections == {"worker: its process died on this utterance again and again": 1}
    rows = pq.read_table(tmp_path / "blocks").to_pylist()
    assert [row["seed"] for row in rows if row["status"] == "rejected"] == [7]
    assert len({row["slot_id"] for row in rows}) == 40


def test_workers_that_die_before_they_do_anything_end_the_run(ray, plan, hum, tmp_path):
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    hum.__init__ = die
    with pytest.raises(UserError, match=r"a worker of hum died 8 times without finishing anything.*memory"):
        made(plan, hum, tmp_path)


def test_what_a_stage_refuses_in_its_worker_is_told_in_its_words(ray, plan, hum, tmp_path):
    def refuse(self):
        raise UserError("the voice is out; choose another")

    hum.__init__ = refuse
    with pytest.raises(UserError, match=r"^the voice is out; choose another$"):
        made(plan, hum, tmp_path)


def test_a_shard_that_was_never_written_to_its_end_is_made_again(ray, plan, hum, tmp_path):
    made(plan, hum, tmp_path)
    shard = min((tmp_path / "blocks").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:1000])
    summary = made(plan, hum, tmp_path)
    assert 0 < summary.resumed < 40
    assert pq.read_table(tmp_path / "blocks").num_rows == 40
