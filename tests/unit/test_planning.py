import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.planning import EpochPlan, PlanSettings, Position, windows_per_epoch


def speech(count, seed=0):
    """Seconds of utterances, lognormal as speech is."""
    return np.clip(np.random.default_rng(seed).lognormal(1.6, 0.6, count), 1.0, 20.0)


def plan_of(count, *, epoch=0, group_size=64, seed=0, **fields):
    rows = np.arange(count)
    planned = PlanSettings(**{"batch_seconds": 240.0} | fields)
    return EpochPlan(epoch, rows, rows // group_size, speech(count, seed), planned)


def steps_from(plan, position, ranks):
    """To the end of the epoch."""
    while position.epoch == plan.epoch:
        for step in plan.steps(position, ranks):
            yield step
        position = step.after


def rows_of(plan, steps):
    return [int(plan.rows[place]) for step in steps for batch in step.batches for place in batch]


def figures(plan, ranks):
    steps = list(steps_from(plan, Position(plan.epoch), ranks))
    batches = [plan.seconds[batch] for step in steps for batch in step.batches]
    padding = 1 - sum(map(np.sum, batches)) / sum(batch.max() * len(batch) for batch in batches)
    return padding, float(np.mean([step.imbalance for step in steps]))


plans = st.builds(
    plan_of,
    st.integers(8, 200),
    epoch=st.integers(0, 2),
    group_size=st.integers(1, 90),
    seed=st.integers(0, 99),
    window=st.integers(1, 200),
    batch_seconds=st.floats(2.0, 100.0),
    shortest_first=st.booleans(),
)
ranks = st.integers(1, 8)
fast = settings(max_examples=30, deadline=None)


@fast
@given(plans, ranks)
def test_every_utterance_is_in_one_batch_of_one_rank(plan, ranks):
    steps = list(steps_from(plan, Position(plan.epoch), ranks))
    assert sorted(rows_of(plan, steps)) == list(range(len(plan.rows)))


@fast
@given(plans, ranks)
def test_every_rank_has_something_in_every_step(plan, ranks):
    steps = list(steps_from(plan, Position(plan.epoch), ranks))
    assert all(len(step.batches) == ranks for step in steps)
    assert all(len(batch) for step in steps for batch in step.batches)


@fast
@given(plans, ranks, st.data())
def test_as_many_ranks_go_on_with_the_very_steps_that_were_left(plan, ranks, data):
    steps = list(steps_from(plan, Position(plan.epoch), ranks))
    taken = data.draw(st.integers(1, len(steps)))
    rest = list(steps_from(plan, steps[taken - 1].after, ranks))
    assert [(s.after, s.epochs_done, [b.tolist() for b in s.batches]) for s in rest] == [
        (s.after, s.epochs_done, [b.tolist() for b in s.batches]) for s in steps[taken:]
    ]


@fast
@given(plans, st.lists(ranks, min_size=2, max_size=4), st.data())
def test_other_numbers_of_ranks_repeat_nothing_and_skip_nothing(plan, several, data):
    position, learnt = Position(plan.epoch), []
    for number, ranks in enumerate(several):
        steps = list(steps_from(plan, position, ranks))
        taken = len(steps) if number == len(several) - 1 else data.draw(st.integers(0, len(steps)))
        learnt += steps[:taken]
        position = learnt[-1].after if learnt else position
    times = np.bincount(rows_of(plan, learnt[:-1]), minlength=len(plan.rows))
    last = np.bincount(rows_of(plan, learnt[-1:]), minlength=len(plan.rows))
    assert times.max() <= 1
    assert (times + last).min() == 1  # the last step of an epoch may have to draw some again, so that all ranks get one
    assert (times + last).sum() - len(plan.rows) < max(several)


@fast
@given(plans, ranks)
def test_progress_rises_to_the_next_epoch(plan, ranks):
    steps = list(steps_from(plan, Position(plan.epoch), ranks))
    done = [plan.epoch, *(step.epochs_done for step in steps)]
    assert np.all(np.diff(done) > 0)
    assert done[-1] == plan.epoch + 1
    assert steps[-1].after == Position(plan.epoch + 1)


@fast
@given(plans, ranks)
def test_where_a_window_ends_is_known_without_its_steps(plan, ranks):
    position = Position(plan.epoch)
    while position.epoch == plan.epoch:
        *_, last = plan.steps(position, ranks)
        assert plan.next_start(position, ranks) == last.after
        position = last.after


def test_with_so_few_utterances_that_ranks_would_have_none_some_are_drawn_again():
    plan = plan_of(3)
    [step] = steps_from(plan, Position(), 8)
    assert [len(batch) for batch in step.batches] == [1] * 8
    assert set(rows_of(plan, [step])) == {0, 1, 2}
    assert step.epochs_done == 1


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_little_is_padding_and_ranks_have_alike_work(ranks):
    padding, imbalance = figures(plan_of(2 * 2048 * ranks, window=2048 * ranks), ranks)
    assert padding <= 0.05
    assert imbalance <= 0.03


def test_batches_stay_within_their_seconds():
    plan = plan_of(5000, batch_seconds=60.0)
    for step in steps_from(plan, Position(), 2):
        for batch in step.batches:
            assert plan.seconds[batch].max() * len(batch) <= 60.0


def test_long_utterances_can_take_more_of_a_batch_than_they_last():
    plan = plan_of(5000, batch_seconds=60.0, quadratic_seconds=10.0)
    batches = [plan.seconds[batch] for step in steps_from(plan, Position(), 2) for batch in step.batches]
    assert all((batch.max() + batch.max() ** 2 / 10) * len(batch) <= 60 or len(batch) == 1 for batch in batches)
    long = [batch.max() * len(batch) for batch in batches if batch.max() > 10]
    short = [batch.max() * len(batch) for batch in batches if batch.max() < 3]
    assert np.mean(long) < 0.7 * np.mean(short)


def test_no_more_steps_are_taken_than_the_seconds_need():
    plan = plan_of(8192, batch_seconds=240.0)
    steps = list(steps_from(plan, Position(), 2))
    assert len(steps) <= 1.08 * plan.seconds.sum() / (2 * 240.0)


def test_an_utterance_longer_than_a_batch_is_a_batch_of_its_own():
    rows = np.arange(280)
    plan = EpochPlan(0, rows, rows // 8, np.append(speech(200), [90.0] * 80), PlanSettings(batch_seconds=10.0))
    batches = [plan.seconds[batch] for step in steps_from(plan, Position(), 2) for batch in step.batches]
    assert all(batch.max() * len(batch) <= 10 or len(batch) == 1 for batch in batches)
    assert sum(batch.max() == 90 for batch in batches) == 80


def test_utterances_of_one_length_are_shared_out_evenly():
    rows = np.arange(90)
    plan = EpochPlan(0, rows, rows // 10, np.full(90, 2.0), PlanSettings(batch_seconds=20.0))
    sizes = [len(batch) for step in steps_from(plan, Position(), 2) for batch in step.batches]
    assert len(sizes) == 10
    assert min(sizes) >= 8


def test_few_utterances_of_very_different_lengths_leave_no_rank_without():
    rows = np.arange(12)
    seconds = np.array([60.0] + [5.0] * 11)
    plan = EpochPlan(0, rows, rows, seconds, PlanSettings(batch_seconds=10.0))
    steps = list(steps_from(plan, Position(), 2))
    assert sorted(rows_of(plan, steps)) == list(range(12))
    assert all(len(batch) for step in steps for batch in step.batches)


def test_a_row_group_is_read_in_one_window_and_by_one_rank_where_there_are_many():
    plan = plan_of(3 * 4096, group_size=64)
    readers = {}
    for step in steps_from(plan, Position(), 2):
        window = step.after.window - (not step.after.history)
        for rank, batch in enumerate(step.batches):
            for group in np.unique(plan.rows[batch] // 64):
                readers.setdefault(int(group), set()).add((window % plan.windows, rank))
    assert all(len(who) == 1 for who in readers.values())


def test_long_row_groups_are_cut_so_that_windows_hold_speech_of_many():
    plan = plan_of(40_000, group_size=10_000, window=2048)
    first_window = rows_of(plan, plan.steps(Position(), 2))
    assert len({row // 128 for row in first_window}) > 12


def test_an_utterance_that_is_taken_twice_comes_again_in_another_stretch():
    rows = np.concatenate([np.arange(64), np.arange(64), np.arange(10)])
    plan = EpochPlan(0, rows, rows // 8, speech(138), PlanSettings(batch_seconds=60.0))
    assert sorted(rows_of(plan, steps_from(plan, Position(), 2))) == sorted(rows.tolist())
    stretches = np.split(plan.rows, np.flatnonzero(np.diff(plan.rows) != 1) + 1)
    assert all(len(set(stretch.tolist())) == len(stretch) for stretch in stretches)


def test_epochs_differ_and_each_is_the_same_again():
    first, again, second = (
        [batch.tolist() for step in steps_from(plan, Position(plan.epoch), 2) for batch in step.batches]
        for plan in (plan_of(300), plan_of(300), plan_of(300, epoch=1))
    )
    assert first == again
    assert first != second


def test_other_utterances_meet_in_the_next_epoch_of_a_small_corpus():
    def pairs(epoch):
        plan = plan_of(1000, epoch=epoch, batch_seconds=60.0)
        batches = [plan.rows[batch] for step in steps_from(plan, Position(epoch), 2) for batch in step.batches]
        return {(a, b) for batch in batches for a in batch.tolist() for b in batch.tolist() if a < b}

    assert len(pairs(0) & pairs(1)) < 0.5 * len(pairs(0))


def test_a_new_model_starts_with_short_sentences():
    def lengths(epoch):
        plan = plan_of(1000, epoch=epoch, batch_seconds=60.0, shortest_first=True)
        return [max(plan.seconds[b].max() for b in step.batches) for step in plan.steps(Position(epoch), 2)]

    assert np.all(np.diff(lengths(0)) > -0.3)
    assert np.any(np.diff(lengths(1)) < -5)


def test_windows_can_be_counted_without_a_plan():
    for count in (1, 30, 99, 100, 101, 1000):
        assert plan_of(count, window=60).windows == windows_per_epoch(count, PlanSettings(60.0, window=60))


def test_a_position_survives_json():
    position = Position(1, 3).advanced(2).advanced(2).advanced(4)
    assert position == Position(1, 3, ((2, 2), (4, 1)))
    assert Position.from_json(json.loads(json.dumps(dataclasses.asdict(position)))) == position
