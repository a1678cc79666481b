"""The simulated cluster: what arrives, how long it takes, what it costs, and what is refused."""

import dataclasses
import time

import pytest
from simpy import Environment

from pipelines.capacity.config import GroupConfig, NodeConfig, ScaleConfig, SpotConfig
from pipelines.capacity.crew import Bundle, Crew, cut
from pipelines.capacity.queue import Queue
from pipelines.capacity.simulate import Simulation, simulate
from rayapp.config import checked_config
from rayapp.errors import UserError

HOUR = 3600.0


def crew(name="speak", **fields):
    values = {"node": "box", "cpus": 1.0, "gpus": 0.0, "seconds": 1.0, "min_workers": 1, "max_workers": 1}
    return Crew(name, **values | fields)


def scale(node=(), **fields):
    """A cluster of one kind of node, that boots at once and goes at once."""
    box = NodeConfig(**{"cpus": 4, "price_hour": 1.0, "boot_minutes": 0, "max_nodes": 100} | dict(node))
    values = {"hours": 1, "idle_minutes": 0, "planned_per_second": 1e12, "nodes": {"box": box}}
    return ScaleConfig(**values | {"groups": {"speak": GroupConfig(node="box")}} | fields)


def spot(interruptions_per_hour):
    return {"spot": SpotConfig(price_hour=0.3, interruptions_per_hour=interruptions_per_hour)}


def three(slowest=1):
    return [
        crew("write", seconds=0.2),
        crew("speak", seconds=1.0, min_workers=slowest, max_workers=slowest),
        crew("listen", seconds=0.1),
    ]


def test_a_round_is_cut_as_a_run_cuts_it():
    assert [bundle.utterances for bundle in cut(100, workers=4)] == [32, 32, 32, 4]
    many = cut(1_000_000, workers=100)
    assert len(many) == 800
    assert {bundle.parts for bundle in many} == {1}
    most = cut(100_000_000, workers=5_000)
    assert len(most) == 20_000
    assert {bundle.parts for bundle in most} == {2}
    for bundles, slots in ((many, 1_000_000), (most, 100_000_000)):
        assert sum(bundle.utterances for bundle in bundles) == slots
        assert max(b.utterances for b in bundles) - min(b.utterances for b in bundles) < 64


@pytest.mark.parametrize("interruptions", [0, 20])
def test_every_bundle_arrives_once_whatever_is_interrupted(interruptions):
    workers = {"min_workers": 2, "max_workers": 7}
    crews = [dataclasses.replace(each, **workers, load_seconds=20, gpus=0.5) for each in three()]
    node = {"gpus": 1, "boot_minutes": 1, "max_nodes": 6} | spot(interruptions)
    simulation = Simulation(crews, scale(node, idle_minutes=1))
    simulation.run([5_000, 700, 3])
    outcome = simulation.outcome([5_000, 700, 3])
    assert simulation.sink.arrived == set(range(len(cut(3, 21))))  # that none comes twice is asserted where they end
    assert outcome.utterances == 5_703
    for group, each in zip(outcome.groups, crews, strict=True):
        done = group.worker_hours - group.redone_hours
        assert done == pytest.approx(5_703 * each.seconds / HOUR)
        assert (group.redone_hours > 0) == bool(interruptions)
    assert (outcome.nodes[0].lost > 20) == bool(interruptions)
    assert all(node.gone for node in simulation.fleet.nodes)


def test_a_run_takes_the_work_of_its_slowest_group_and_the_way_of_one_bundle():
    outcome = simulate(three(), scale(), [3_200])
    assert outcome.wall_hours * HOUR == pytest.approx(32 * 0.2 + 3_200 * 1.0 + 32 * 0.1)
    write, speak, listen = outcome.groups
    assert speak.utilisation > 0.99
    assert write.blocked > 0.7
    assert listen.starved > 0.89


def test_twice_the_workers_of_the_bottleneck_halve_the_time():
    one, two, four = (simulate(three(slowest), scale(), [32_000]).wall_hours for slowest in (1, 2, 4))
    assert one / two == pytest.approx(2, rel=0.02)
    assert one / four == pytest.approx(4, rel=0.04)


def test_a_queue_never_exceeds_its_bound():
    slow = [crew("write", seconds=0.01), crew("speak", queue=3, min_workers=2, max_workers=2), crew("listen")]
    write, speak, listen = simulate(slow, scale(), [32_000]).groups
    assert (speak.longest_queue, listen.longest_queue) == (6, 2)
    assert write.blocked > 0.9


def test_who_brings_a_bundle_to_a_full_queue_waits_until_one_is_taken():
    env = Environment()
    queue = Queue(env, expected=3, bound=1)
    first, second, third = (Bundle(number, 32) for number in range(3))
    assert queue.bring(first) is None
    admitted, gives_up = queue.bring(second), queue.bring(third)
    queue.withdraw(gives_up)
    assert not admitted.triggered
    assert queue.take() is first
    assert admitted.triggered
    assert queue.take() is second
    assert queue.take() is None
    assert not queue.drained


def test_what_is_given_back_is_taken_next_and_who_waits_in_vain_is_sent_away():
    env = Environment()
    first, second = Bundle(0, 32), Bundle(1, 32)
    queue = Queue(env, expected=2, bundles=[first, second])
    queue.give_back(queue.take())
    assert queue.take() is first
    waits = [queue.wait()]
    queue.give_back(first)
    assert queue.leave(waits[0]) is first
    assert queue.take() is second
    assert queue.drained


def test_an_interruption_costs_what_was_held_and_nothing_else():
    lasting = simulate([crew(min_workers=8, max_workers=8)], scale(), [100_000])
    lossy = simulate([crew(min_workers=8, max_workers=8)], scale(spot(2)), [100_000])
    bundle_hours = cut(100_000, 8)[0].utterances / HOUR
    lost = lossy.nodes[0].lost
    assert lost > 5
    assert 0 < lossy.groups[0].redone_hours <= lost * 4 * bundle_hours  # there are four workers on a node
    assert lossy.groups[0].worker_hours == pytest.approx(lasting.groups[0].worker_hours + lossy.groups[0].redone_hours)
    assert lossy.cost.redone == pytest.approx(lossy.groups[0].redone_hours * 0.3 / 4)
    assert lossy.wall_hours > lasting.wall_hours


def test_of_a_bundle_that_stands_for_many_an_interruption_costs_one():
    fleet = crew(min_workers=4_000, max_workers=4_000)
    outcome = simulate([fleet], scale({"max_nodes": 1_000} | spot(0.05)), [70_000_000])
    one = 70_000_000 / 32_000 / HOUR
    assert cut(70_000_000, 4_000)[0].parts == 2
    assert outcome.nodes[0].lost > 100
    assert 0.4 * one < outcome.groups[0].redone_hours / (outcome.nodes[0].lost * 4) < 0.6 * one


def test_idle_workers_are_given_back_and_their_nodes_too():
    quick_then_slow = [crew("write", seconds=0.5), crew("speak", seconds=1.0, max_workers=8)]
    elastic = simulate(quick_then_slow, scale({"cpus": 1}, idle_minutes=1), [64_000])
    fixed = simulate([quick_then_slow[0], crew("speak", min_workers=8, max_workers=8)], scale({"cpus": 1}), [64_000])
    assert fixed.groups[1].utilisation < 0.3
    assert elastic.groups[1].utilisation > 0.8
    assert elastic.wall_hours == pytest.approx(fixed.wall_hours, rel=0.05)
    assert elastic.cost.total < 0.5 * fixed.cost.total


def test_more_workers_are_asked_for_while_bundles_wait():
    outcome = simulate([crew(max_workers=6)], scale(), [32_000])
    assert outcome.groups[0].most_workers == 6
    assert outcome.wall_hours == pytest.approx(32_000 / 6 / HOUR, rel=0.05)


def test_costs_add_up_by_hand():
    """Two workers on a node of 4 CPUs: 10 min to boot, 100 s to load, 3200 s of work each, 5 min until it goes."""
    node = {"price_hour": 3.6, "boot_minutes": 10}
    outcome = simulate([crew(min_workers=2, max_workers=2, load_seconds=100)], scale(node, idle_minutes=5), [6_400])
    rent = 0.001  # a second
    assert outcome.wall_hours * HOUR == pytest.approx(600 + 100 + 3_200)
    assert outcome.cost.total == pytest.approx(rent * (600 + 100 + 3_200 + 300))
    assert outcome.cost.starting == pytest.approx(rent * (600 + 100 / 2))
    assert outcome.cost.working == pytest.approx(rent * 3_200 / 2)
    assert outcome.cost.idle == pytest.approx(rent * (100 / 2 + 3_200 / 2 + 300))
    assert outcome.cost.redone == 0
    assert outcome.nodes[0].hours * HOUR == pytest.approx(600 + 100 + 3_200 + 300)
    (begin, one), (end, none) = outcome.nodes[0].over_time
    assert (one, none) == (1, 0)
    assert (end - begin) * HOUR == pytest.approx(4_200)


def test_gpus_and_cpus_of_a_node_are_shared_out():
    """Each worker has half of the GPUs or of the CPUs, so four fit, whose shares add up to two: a fourth each."""
    crews = [
        crew("speak", gpus=1.0, min_workers=2, max_workers=2),
        crew("noise", cpus=1.0, min_workers=2, max_workers=2),
    ]
    outcome = simulate(crews, scale({"gpus": 2}), [64_000])
    assert outcome.nodes[0].most == 1
    assert outcome.cost.working == pytest.approx(outcome.cost.total, rel=0.02)


def test_the_driver_plans_each_round_before_anybody_works():
    outcome = simulate([crew()], scale(planned_per_second=10), [3_200, 320])
    assert outcome.planning_hours * HOUR == pytest.approx(352)
    assert outcome.wall_hours * HOUR == pytest.approx(352 + 3_520)
    assert outcome.nodes[0].over_time[0][0] * HOUR == pytest.approx(320)


def test_the_same_seed_gives_the_same_answer():
    told = [simulate(three(4), scale(spot(1), seed=seed), [50_000]) for seed in (1, 1, 2)]
    assert told[0] == told[1]
    assert told[0].nodes[0].over_time != told[2].nodes[0].over_time


def test_a_million_hours_are_simulated_in_seconds():
    crews = [
        crew("write", node="box", gpus=4, seconds=0.02, min_workers=4, max_workers=60, load_seconds=300),
        crew("speak", node="box", gpus=0.5, seconds=0.1, min_workers=16, max_workers=1_000, load_seconds=40),
        crew("noise", cpus=0.5, seconds=0.05, min_workers=16, max_workers=600),
        crew("listen", gpus=0.5, seconds=0.02, min_workers=8, max_workers=300),
    ]
    started = time.perf_counter()
    outcome = simulate(crews, scale({"cpus": 96, "gpus": 8, "max_nodes": 200} | spot(0.05)), [700_000_000, 70_000_000])
    assert time.perf_counter() - started < 10
    assert outcome.utterances == 770_000_000
    assert outcome.wall_hours > 770_000_000 * 0.1 / 1_000 / HOUR


def settings(**changes):
    values = {
        "hours": 10,
        "nodes": {"gpu": {"cpus": 8, "gpus": 1, "price_hour": 2, "max_nodes": 4}},
        "groups": {"speech": {"node": "gpu"}},
    }
    return checked_config(ScaleConfig, values | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": {"speech": {"node": "tpu"}}}, r"groups\.speech\.node = 'tpu' is none of nodes: gpu"),
        ({"groups": {"speech": {}}}, r"groups\.speech\.node = \{\}: field required"),
        (
            {"groups": {"speech": {"node": "gpu", "min_workers": 4, "max_workers": 2}}},
            r"groups\.speech: min_workers \(4\) is above max_workers \(2\); swap them",
        ),
        ({"nodes": {"gpu": {"cpus": 8, "max_nodes": 4}}}, r"nodes\.gpu\.price_hour = .*: field required"),
        (
            {"nodes": {"gpu": {"cpus": 8, "price_hour": 2, "max_nodes": 4, "spot": {"price_hour": 1}}}},
            r"nodes\.gpu\.spot\.interruptions_per_hour = .*: field required",
        ),
        ({"hours": 0}, r"hours = 0: input should be greater than 0"),
        ({"hours": -3}, r"hours = -3: input should be greater than 0"),
        ({"deadline": 3}, r"unknown key deadline; did you mean deadline_hours\?"),
        ({"nodes": {}}, r"nodes = \{\}: dictionary should have at least 1 item"),
    ],
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        settings(**changes)


def test_a_worker_that_fits_on_no_node_is_refused():
    with pytest.raises(UserError, match=r"a worker of speak wants 1 CPUs and 2 GPUs; a node of box has 4 and 1: set"):
        simulate([crew(gpus=2)], scale({"gpus": 1}), [32])


def test_more_workers_than_there_can_be_room_for_are_refused():
    crews = [crew("write", min_workers=3, max_workers=3), crew("speak", min_workers=6, max_workers=6)]
    with pytest.raises(UserError, match=r"3 of write \+ 6 of speak workers .* do not fit on 2 nodes of box: raise nod"):
        simulate(crews, scale({"max_nodes": 2}), [320])


def test_bundles_that_would_be_interrupted_again_and_again_are_refused():
    with pytest.raises(UserError, match=r"a bundle of 39,040 utterances takes .* of speak 10\.8 h, .* 0\.5 times"):
        simulate([crew()], scale(spot(0.5)), [10_000_000])
