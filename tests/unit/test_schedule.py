import typing

import pytest
import torch

from pipelines.training.schedule import Schedule, ScheduleName

NAMES = typing.get_args(ScheduleName)


def optimizer(*peaks):
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": peak} for peak in peaks])


def rates(of):
    return [group["lr"] for group in of.param_groups]


@pytest.mark.parametrize("warmup_share", [0.15, 0.3])
def test_one_cycle_is_that_of_torch(warmup_share):
    steps = 2000
    theirs, ours = optimizer(2e-3), optimizer(2e-3)
    schedule = Schedule("one_cycle", warmup_share)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 2e-3, steps + 1, pct_start=warmup_share, cycle_momentum=False, div_factor=20, final_div_factor=50
    )
    for step in range(steps + 1):
        schedule.apply(ours, step / steps)
        assert rates(ours) == pytest.approx(rates(theirs), rel=0.01), step
        theirs.step()
        if step < steps:
            torchs.step()


@pytest.mark.parametrize("name", NAMES)
def test_each_schedule_rises_to_its_peak_and_not_beyond(name):
    schedule = Schedule(name, warmup_share=0.2)
    factors = [schedule.factor(progress / 100) for progress in range(101)]
    assert factors[0] == pytest.approx(0.05)
    assert factors[20] == max(factors) == pytest.approx(1.0)
    assert factors[:21] == sorted(factors[:21])
    assert factors[20:] == sorted(factors[20:], reverse=True)


@pytest.mark.parametrize(
    ("name", "halfway", "end"),
    [
        ("one_cycle", 0.5005, 0.001),
        ("cosine", 0.5, 0.0),
        ("linear", 0.5, 0.0),
        ("constant", 1.0, 1.0),
        ("inverse_sqrt", 0.577, 0.447),
    ],
)
def test_each_schedule_ends_where_it_should(name, halfway, end):
    schedule = Schedule(name, warmup_share=0.2)
    assert schedule.factor(0.6) == pytest.approx(halfway, abs=1e-3)
    assert schedule.factor(1.0) == pytest.approx(end, abs=1e-3)
    assert schedule.factor(1.2) == schedule.factor(1.0)  # a run that makes a step more than was planned


def test_each_group_keeps_its_own_peak():
    groups, schedule = optimizer(0.02, 2e-3), Schedule("linear", warmup_share=0.5)
    schedule.apply(groups, 0.1)
    schedule.apply(groups, 0.75)
    assert rates(groups) == pytest.approx([0.01, 1e-3])


def test_a_group_that_starts_later_stands_still_until_then():
    groups, schedule = optimizer(0.02, 2e-3), Schedule("constant", warmup_share=0.1)
    groups.param_groups[0]["starts_at"] = 0.5
    schedule.apply(groups, 0.4)
    assert rates(groups) == [0.0, 2e-3]
    schedule.apply(groups, 0.5)
    assert rates(groups) == [0.02, 2e-3]
