"""Engines over two processes, and over one. Run as a program, this file is one of the ranks."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from pipelines.training import checkpoints
from pipelines.training.engine import DDPEngine, DeepSpeedEngine, zero_settings
from pipelines.training.schedule import Schedule
from rayapp.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.alone]

STEPS, SAVED_AFTER = 6, 3
STAGES = [0, 1, 2, 3]
KINDS = ["ddp", *STAGES]
PEAK = 1e-2


class Net(torch.nn.Module):
    """Three layers of odd sizes; its forward is the loss. `noise` makes it depend on random states and on buffers."""

    def __init__(self, noise=0.0, width=13):
        super().__init__()
        self.first = torch.nn.Linear(7, width)
        self.norm = torch.nn.BatchNorm1d(width) if noise else torch.nn.Identity()
        self.second = torch.nn.Sequential(torch.nn.Dropout(noise), torch.nn.Linear(width, 5), torch.nn.Tanh())
        self.third = torch.nn.Linear(5, 3, bias=False)

    def forward(self, x, y):
        return (self.third(self.second(self.norm(self.first(x)))) - y).square().mean()


def batch(step, rank, rows=4):
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(rows, 7, generator=generator), torch.randn(rows, 3, generator=generator)


def both_ranks_batch(step):
    return tuple(torch.cat(parts) for parts in zip(batch(step, 0), batch(step, 1), strict=True))


def build(kind, net=None, optimizer=torch.optim.AdamW, peak=PEAK, seed=0, schedule="one_cycle", **settings):
    """kind: a ZeRO stage, or ddp."""
    if net is None:
        torch.manual_seed(seed)
        net = Net()
    optimizer, schedule = optimizer(net.parameters(), lr=peak), Schedule(schedule, 0.3)
    if kind == "ddp":
        return DDPEngine(net, optimizer, schedule, **settings)
    made = zero_settings(batch_size=4, on_gpu=False, zero_stage=kind, reduce_bucket_elements=1000, **settings)
    made["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # or nothing so small would be sharded
    made["zero_allow_untested_optimizer"] = True
    return DeepSpeedEngine(net, optimizer, schedule, made)


def noisy_net(seed=0):
    torch.manual_seed(seed)
    net = Net(noise=0.2)
    torch.manual_seed(1000 * seed + dist.get_rank())
    return net


def train(engine, steps, make_batch=None):
    """The mean loss of each step, over the ranks."""
    losses = []
    for step in steps:
        loss = engine.loss(*(make_batch(step) if make_batch else batch(step, dist.get_rank())))
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(float(mean) / dist.get_world_size())
        assert engine.backward_and_step(loss, step / STEPS).stepped
    return losses


def vector(engine):
    """All parameters, on every rank."""
    with engine.whole():
        return torch.cat([p.detach().flatten().clone() for p in engine.module.parameters()])


# What the ranks do. Each function is a scenario, whose result goes to the test of the same name.


def resumed(home):
    """Losses of a run that nothing disturbed, and of one that goes on from its middle."""
    results = {}
    for kind in KINDS:
        engine = build(kind, noisy_net())
        losses = train(engine, range(SAVED_AFTER))
        engine.save(home / f"noisy-{kind}")
        losses += train(engine, range(SAVED_AFTER, STEPS))
        running_mean = engine.module.norm.running_mean.tolist()

        again = build(kind, noisy_net(seed=1), peak=PEAK)
        again.load(home / f"noisy-{kind}")
        gone_on = train(again, range(SAVED_AFTER, STEPS))
        results[kind] = [losses, gone_on, running_mean, again.module.norm.running_mean.tolist()]
    return results


def saved_by_two(home):
    results = {}
    for kind in KINDS:
        engine = build(kind)
        losses = train(engine, range(SAVED_AFTER))
        engine.save(home / f"plain-{kind}")
        results[kind] = losses + train(engine, range(SAVED_AFTER, STEPS))
    return results


def loaded_by_one(home):
    """The same run, gone on by one rank that gets the batches of both."""
    results = {}
    for kind in KINDS:
        engine = build(kind, seed=1)
        engine.load(home / f"plain-{kind}")
        results[kind] = train(engine, range(SAVED_AFTER, STEPS), both_ranks_batch)
    return results


def saved_by_one(home):
    for kind in STAGES[1:]:
        engine = build(kind)
        train(engine, range(SAVED_AFTER), both_ranks_batch)
        engine.save(home / f"one-{kind}")


def loaded_by_two(home):
    results = {}
    for kind in STAGES[1:]:
        engine = build(kind, seed=1)
        engine.load(home / f"one-{kind}")
        results[kind] = train(engine, range(SAVED_AFTER, STEPS))
    return results


def accumulated(home):
    """Parameters after three updates of two batches each, and after three of one of both."""
    results = {}
    for kind in KINDS:
        engine = build(kind, gradient_accumulation_steps=2)
        figures = []
        for step in range(6):
            figures.append(engine.backward_and_step(engine.loss(*batch(step, dist.get_rank())), 0.5))
        whole = build(kind)
        for step in range(0, 6, 2):
            pair = zip(batch(step, dist.get_rank()), batch(step + 1, dist.get_rank()), strict=True)
            whole.backward_and_step(whole.loss(*map(torch.cat, pair)), 0.5)
        results[kind] = {
            "stepped": [of.stepped for of in figures],
            "norms": [of.gradient_norm is not None for of in figures],
            "parameters": [vector(engine).tolist(), vector(whole).tolist()],
        }
    return results


def left_out(home):
    """Parameters where a batch of an accumulation is left out after its forward pass, and where it never was."""
    results = {}
    for kind in KINDS:
        vectors = []
        for skips in (True, False):
            engine = build(kind, gradient_accumulation_steps=2)
            for step in range(5):
                if step == 1 and not skips:
                    continue
                loss = engine.loss(*batch(step, dist.get_rank()))
                if step != 1:
                    engine.backward_and_step(loss, 0.5)
            vectors.append(vector(engine).tolist())
        results[kind] = vectors
    return results


def clipped(home):
    """By how much SGD with a rate of 1 moves the parameters, in all, and the norm that was told."""
    results = {}
    for kind in KINDS:
        engine = build(kind, optimizer=torch.optim.SGD, peak=1.0, schedule="constant", gradient_clipping=0.125)
        before = vector(engine)
        figures = engine.backward_and_step(engine.loss(*batch(0, dist.get_rank())), 0.5)
        results[kind] = [float((vector(engine) - before).norm()), figures.gradient_norm, figures.learning_rate]
    return results


def not_finite(home):
    """A step in which one rank's loss is NaN, then one in which none is."""
    results = {}
    for kind, settings in [*((kind, {}) for kind in KINDS), (2, {"offload_optimizer": "cpu"})]:
        engine = build(kind, **settings)
        engine.backward_and_step(engine.loss(*batch(0, dist.get_rank())), 0.5)
        before, (x, y) = vector(engine), batch(1, dist.get_rank())
        if dist.get_rank() == 1:
            x[0, 0] = float("nan")
        bad = engine.backward_and_step(engine.loss(x, y), 0.5)
        after = vector(engine)
        good = engine.backward_and_step(engine.loss(*batch(2, dist.get_rank())), 0.5)
        results[str((kind, *settings))] = {
            "stepped": [bad.stepped, good.stepped],
            "skipped": [bad.skipped, good.skipped],
            "moved": [bool((before != after).any()), bool((after != vector(engine)).any())],
        }
    return results


OFFLOADED = [(1, "cpu", "none"), (2, "cpu", "none"), (3, "cpu", "none"), (3, "cpu", "cpu")]


def offloaded(home):
    results = {}
    for stage, optimizer, parameters in OFFLOADED:
        engine = build(stage, offload_optimizer=optimizer, offload_parameters=parameters)
        losses = train(engine, range(SAVED_AFTER))
        engine.save(home / f"offloaded-{stage}-{parameters}")
        losses += train(engine, range(SAVED_AFTER, STEPS))
        again = build(stage, seed=1, offload_optimizer=optimizer, offload_parameters=parameters)
        again.load(home / f"offloaded-{stage}-{parameters}")
        results[str((stage, optimizer, parameters))] = {
            "losses": [losses, train(again, range(SAVED_AFTER, STEPS))],
            "in_force": engine.in_force(),
        }
    return results


def in_force(home):
    """Fresh, and after loading a checkpoint that was written with other settings."""
    settings = {"gradient_clipping": 0.25, "gradient_accumulation_steps": 2}
    results = {}
    for kind in KINDS:
        fresh = build(kind, **settings)
        loaded = build(kind, peak=1e-3, **settings)
        loaded.load(home / f"plain-{kind}")
        rates = [
            loaded.backward_and_step(loaded.loss(*batch(step, dist.get_rank())), 0.3).learning_rate for step in range(2)
        ]
        results[kind] = [fresh.in_force(), loaded.in_force(), rates]
    return results


def sharded(home):
    """Bytes held by this rank between two batches that are accumulated, after a first step."""
    results = {}
    for kind in KINDS:
        torch.manual_seed(0)
        engine = build(kind, Net(width=400), gradient_accumulation_steps=2)
        for step in range(3):
            engine.backward_and_step(engine.loss(*batch(step, dist.get_rank())), 0.5)
        results[kind] = engine.memory() | {"elements": sum(map(math.prod, engine.shapes.values()))}
    return results


def made_whole(home):
    """Rank 0 alone uses the whole model, and both go on."""
    results = {}
    for kind in KINDS:
        engine = build(kind)
        losses = train(engine, range(2))
        with engine.whole(), torch.no_grad():
            alone = from_state = None
            if dist.get_rank() == 0:
                alone, copy = float(engine.module(*batch(9, 0))), Net()
                copy.load_state_dict(engine.module.state_dict())
                from_state = float(copy(*batch(9, 0)))
        results[kind] = {
            "losses": losses + train(engine, range(2, STEPS)),
            "alone": alone,
            "from_state": from_state,
        }
    return results


def adapters(home):
    """An adapter's callables, and that what is frozen is not in the checkpoint."""
    seen = []

    def make(weight):
        torch.manual_seed(0)
        net = Net()
        net.first.requires_grad_(False)
        return build(
            "ddp",
            net,
            after_step=lambda progress: seen.append([progress, float(net.third.weight.grad.norm())]),
            extra_state=lambda: {"importance": torch.tensor([weight]), "seen": len(seen)},
            load_extra_state=lambda state: seen.append([float(state["importance"]), state["seen"]]),
        )

    engine = make(0.5)
    train(engine, range(2))
    engine.save(home / "adapter")
    again = make(0.0)
    again.load(home / "adapter")
    train(again, range(2, 3))
    saved = torch.load(home / "adapter" / "ddp.pt", weights_only=True)
    return {"seen": seen, "names": sorted(saved["parameters"])}


def recomputed(home):
    results = {}
    for kind in KINDS:
        torch.manual_seed(0)
        net = Net()
        net.second.forward = partial(checkpoint, net.second.forward, use_reentrant=False)
        engine = build(kind, net)
        results[kind] = [train(engine, range(STEPS)), engine.in_force()["recomputed_layers"]]
    return results


def partly_frozen(kind, folder=None):
    """The first layer learns from the middle of the run on."""
    torch.manual_seed(1 if folder else 0)
    net = Net()

    def decaying(_, lr):
        rest = [*net.second.parameters(), *net.third.parameters()]
        groups = [{"params": list(net.first.parameters()), "starts_at": 0.5}, {"params": rest}]
        return torch.optim.AdamW(groups, lr=lr, weight_decay=0.5)

    engine = build(kind, net, optimizer=decaying, schedule="constant")
    if folder:
        engine.load(folder)
    return engine


def train_partly_frozen(engine, steps, make_batch=None):
    losses = []
    for step in steps:
        engine.module.first.requires_grad_(step >= STEPS / 2)
        losses += train(engine, [step], make_batch)
    return losses


def unfrozen(home):
    results = {}
    for kind in KINDS:
        engine = partly_frozen(kind)
        at_first = vector(engine)[: 7 * 13]
        losses = train_partly_frozen(engine, range(2))
        engine.save(home / f"frozen-{kind}")
        losses += train_partly_frozen(engine, range(2, 3))
        frozen = vector(engine)[: 7 * 13]
        losses += train_partly_frozen(engine, range(3, STEPS))
        moved = [bool((at_first != frozen).any()), bool((frozen != vector(engine)[: 7 * 13]).any())]
        again = partly_frozen(kind, home / f"frozen-{kind}")
        results[kind] = [losses, train_partly_frozen(again, range(2, STEPS)), moved]
    return results


def unfrozen_by_one(home):
    results = {}
    for kind in KINDS:
        again = partly_frozen(kind, home / f"frozen-{kind}")
        results[kind] = train_partly_frozen(again, range(2, STEPS), both_ranks_batch)
    return results


def published(home):
    """Checkpoints on a storage, one of which finds the disk full, and what may be resumed from there."""
    from ray.train import Checkpoint
    from ray.train.v2._internal.execution.storage import StorageContext

    storage = StorageContext(str(home / "storage"), "run")
    engine = build(1)
    said = {"step": 3, "position": {"row": 7}, "model": "parakeet", "figures": {"validation_wer": 0.5}}
    facts = checkpoints.Facts.of(engine, **said)
    mine = home / f"mine-{dist.get_rank()}"
    train(engine, range(3))
    engine.save(mine)
    first = checkpoints.publish(Checkpoint.from_directory(mine), "checkpoint_1", facts=facts, storage=storage)
    files = sorted(path.name for path in Path(first.path).rglob("*.*"))

    errors = []
    train(engine, range(3, 4))
    nearly_full = home / f"nearly-full-{dist.get_rank()}"
    nearly_full.mkdir()
    if dist.get_rank() == 1:
        (nearly_full / "rank_00001.pt").symlink_to("/dev/full")
    errors.append(error_of(lambda: checkpoints.save(engine, nearly_full)))
    full = Path(storage.build_checkpoint_path_from_name("checkpoint_2"))
    if dist.get_rank() == 1:
        full.mkdir()
        (full / "rank_00001.pt").symlink_to("/dev/full")
    dist.barrier()
    second = {"facts": replace(facts, step=4), "storage": storage}
    errors.append(error_of(lambda: checkpoints.publish(Checkpoint.from_directory(mine), "checkpoint_2", **second)))
    gone = not full.exists()

    dist.barrier()
    if dist.get_rank() == 0:
        (Path(storage.experiment_fs_path) / "checkpoint_3").mkdir()
    dist.barrier()
    found = checkpoints.checkpoint_at(storage.experiment_fs_path)
    fresh = build(1, seed=1)
    read = checkpoints.resume(fresh, found)
    refused = [
        error_of(lambda other=other: checkpoints.resume(other, found))
        for other in (build(2), build("ddp"), build(1, Net(width=12)), build(1, optimizer=torch.optim.Adam))
    ]
    dist.barrier()
    if dist.get_rank() == 0:
        checkpoints.remove_half_written(storage)
    return {
        "files": files,
        "errors": errors,
        "gone": gone,
        "found": Path(found.path).name,
        "position": read.position,
        "refused": refused,
        "goes_on": [train(fresh, range(3, STEPS)), vector(fresh).tolist()],
        "left": sorted(path.name for path in Path(storage.experiment_fs_path).glob("checkpoint*")),
    }


def refused(home):
    return error_of(lambda: build(3, offload_optimizer="nvme", nvme_path=home))


def error_of(act):
    try:
        act()
    except UserError as error:
        return str(error)
    return None


def autocast(home):
    """Last: DeepSpeed never forgets that a process had autocast."""
    results = {}
    for kind in KINDS:
        engine = build(kind, noisy_net(), bfloat16=True)
        losses = train(engine, range(SAVED_AFTER))
        engine.save(home / f"bfloat16-{kind}")
        losses += train(engine, range(SAVED_AFTER, STEPS))
        again = build(kind, noisy_net(seed=1), bfloat16=True)
        again.load(home / f"bfloat16-{kind}")
        results[kind] = [losses, train(again, range(SAVED_AFTER, STEPS)), again.in_force()]
    return results


FIRST_TWO = [
    *(resumed, saved_by_two, accumulated, left_out, clipped, not_finite, offloaded, in_force, sharded, made_whole),
    *(adapters, recomputed, unfrozen, published),
]
SCENARIOS = {
    "two": FIRST_TWO,
    "one": [loaded_by_one, saved_by_one, unfrozen_by_one, refused],
    "two_again": [loaded_by_two, autocast],
}


def run_as_rank(name, rank, ranks, port, home):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    results = {scenario.__name__: scenario(home) for scenario in SCENARIOS[name]}
    (home / f"{name}-{rank}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of each scenario, on each rank: two ranks, then one that goes on from them, then two that go on from that."""
    from serve.run import free_port

    home, told = tmp_path_factory.mktemp("engines"), {}
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    for name, ranks in (("two", 2), ("one", 1), ("two_again", 2)):
        port = str(free_port())
        command = [sys.executable, __file__, name, str(ranks), port, str(home)]
        started = [
            subprocess.Popen([*command, str(rank)], env=environment | {"LOCAL_RANK": str(rank)})
            for rank in range(ranks)
        ]
        assert [one.wait(timeout=600) for one in started] == [0] * ranks, name
        of_ranks = [json.loads((home / f"{name}-{rank}.json").read_text()) for rank in range(ranks)]
        told |= {scenario: [of[scenario] for of in of_ranks] for scenario in of_ranks[0]}
    return told


every_kind = pytest.mark.parametrize("kind", [str(kind) for kind in KINDS])


@every_kind
def test_a_resumed_run_has_the_losses_of_the_undisturbed_one(results, kind):
    for losses, gone_on, running_mean, running_mean_again in (rank[kind] for rank in results["resumed"]):
        assert gone_on == pytest.approx(losses[SAVED_AFTER:], abs=1e-6)
        assert running_mean_again == pytest.approx(running_mean, abs=1e-6)
        assert len(set(losses)) == STEPS


@every_kind
def test_bfloat16_trains_and_resumes(results, kind):
    losses, gone_on, in_force = results["autocast"][0][kind]
    assert gone_on == pytest.approx(losses[SAVED_AFTER:], rel=1e-2)
    assert losses == pytest.approx(results["resumed"][0][kind][0], rel=0.1)
    assert losses != results["resumed"][0][kind][0]
    assert (in_force["precision"], in_force["parameter_precision"]) == ("bfloat16", "float32")


@every_kind
def test_all_engines_learn_alike(results, kind):
    losses = results["saved_by_two"][0]
    assert losses[kind] == pytest.approx(losses["ddp"], abs=1e-6)


@every_kind
def test_one_worker_goes_on_where_two_stopped(results, kind):
    losses = results["saved_by_two"][0][kind]
    assert results["loaded_by_one"][0][kind] == pytest.approx(losses[SAVED_AFTER:], abs=1e-5)


@pytest.mark.parametrize("kind", ["1", "2", "3"])
def test_two_workers_go_on_where_one_stopped(results, kind):
    losses = results["saved_by_two"][0][kind]
    assert results["loaded_by_two"][0][kind] == pytest.approx(losses[SAVED_AFTER:], abs=1e-5)


@every_kind
def test_two_accumulated_batches_are_one_of_double_size(results, kind):
    result = results["accumulated"][0][kind]
    accumulated, whole = result["parameters"]
    assert accumulated == pytest.approx(whole, abs=1e-6)
    assert result["stepped"] == result["norms"] == [False, True] * 3


@every_kind
def test_a_batch_may_be_left_out_of_an_accumulation(results, kind):
    with_forward, without = results["left_out"][0][kind]
    assert with_forward == without


@every_kind
def test_gradients_are_clipped_and_their_norm_is_told(results, kind):
    moved, norm, rate = results["clipped"][0][kind]
    assert moved == pytest.approx(0.125, rel=1e-4)
    assert norm > 0.2
    assert norm == pytest.approx(results["clipped"][0]["ddp"][1], rel=1e-5)
    assert rate == 1.0


@pytest.mark.parametrize("kind", [*(str((kind,)) for kind in KINDS), str((2, "offload_optimizer"))])
def test_no_rank_steps_where_one_has_a_loss_that_is_not_finite(results, kind):
    for rank in results["not_finite"]:
        assert rank[kind] == {"stepped": [False, True], "skipped": [True, False], "moved": [False, True]}


@pytest.mark.parametrize("how", OFFLOADED)
def test_what_is_offloaded_learns_alike_and_resumes(results, how):
    stage, optimizer, parameters = how
    result = results["offloaded"][0][str(how)]
    losses, gone_on = result["losses"]
    assert losses == pytest.approx(results["saved_by_two"][0][str(stage)], abs=1e-6)
    assert gone_on == pytest.approx(losses[SAVED_AFTER:], abs=1e-6)
    assert result["in_force"]["offload_optimizer"] == optimizer
    assert result["in_force"]["offload_parameters"] == parameters


@every_kind
def test_the_settings_are_in_force_after_loading_too(results, kind):
    fresh, loaded, rates = results["in_force"][0][kind]
    assert fresh == loaded
    assert fresh == {
        "engine": "ddp" if kind == "ddp" else "deepspeed",
        "zero_stage": 0 if kind == "ddp" else int(kind),
        "offload_optimizer": "none",
        "offload_parameters": "none",
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.25,
        "precision": "float32",
        "parameter_precision": "float32",
        "recomputed_layers": 0,
        "optimizer": "AdamW",
        "device": "cpu",
        "ranks": 2,
    }
    assert rates == pytest.approx([1e-3, 1e-3])


@every_kind
def test_each_stage_shards_what_it_says(results, kind):
    held = results["sharded"][0][kind]
    floats = 4 * held["elements"]
    stage = 0 if kind == "ddp" else int(kind)
    assert held["parameters"] == pytest.approx(floats / (2 if stage == 3 else 1), rel=0.02)
    assert held["optimizer_state"] == pytest.approx(2 * floats / (2 if stage else 1), rel=0.02)
    assert held["gradients"] == pytest.approx(floats / (2 if stage >= 2 else 1), rel=0.35)
    assert held["master_parameters"] == pytest.approx(floats / 2 if stage else 0, rel=0.02)


@every_kind
def test_one_rank_can_use_the_whole_model_and_training_goes_on(results, kind):
    first = results["made_whole"][0][kind]
    assert first["losses"] == results["saved_by_two"][0][kind]
    assert first["alone"] == pytest.approx(first["from_state"], abs=1e-6)


def test_an_adapter_sees_its_gradients_after_each_step_and_keeps_its_own_state(results):
    (first, second, loaded, third), names = results["adapters"][0]["seen"], results["adapters"][0]["names"]
    assert [first[0], second[0], third[0]] == pytest.approx([0, 1 / STEPS, 2 / STEPS])
    assert min(first[1], second[1], third[1]) > 0
    assert loaded == [0.5, 2]
    assert names == ["second.1.bias", "second.1.weight", "third.weight"]


@every_kind
def test_recomputing_activations_changes_nothing_but_is_told(results, kind):
    losses, layers = results["recomputed"][0][kind]
    assert losses == pytest.approx(results["saved_by_two"][0][kind], abs=1e-6)
    assert layers == 1


@every_kind
def test_what_is_frozen_for_now_stays_as_it_is_and_then_learns(results, kind):
    losses, gone_on, moved = results["unfrozen"][0][kind]
    assert moved == [False, True]
    assert gone_on == pytest.approx(losses[2:], abs=1e-6)
    assert results["unfrozen_by_one"][0][kind] == pytest.approx(losses[2:], abs=1e-5)


def test_a_full_disk_leaves_the_earlier_checkpoint_as_it_was(results):
    for rank in results["published"]:
        assert {"rank_00000.pt", "rank_00001.pt", "checkpoint.json", "mp_rank_00_model_states.pt"} <= set(rank["files"])
        for error in rank["errors"]:
            assert "the disk is full: rank 1 could not write its part of the checkpoint to" in error
        assert rank["gone"]
        assert rank["found"] == "checkpoint_1"
        assert rank["position"] == {"row": 7}
        assert rank["left"] == ["checkpoint_1"]
        losses, _ = rank["goes_on"]
        assert losses == pytest.approx(results["saved_by_two"][0]["1"][SAVED_AFTER:], abs=1e-6)


def test_a_checkpoint_of_something_else_is_refused(results):
    stage, engine, shape, optimizer = results["published"][0]["refused"]
    assert "was written with zero_stage 1, not 2: resume it with 1" in stage
    assert "was written with engine deepspeed, not ddp" in engine
    assert "3 parameters differ, the first is first.bias (13 there, 12 here)" in shape
    assert "was written with optimizer AdamW, not Adam" in optimizer


def test_a_machine_that_cannot_offload_to_disk_says_what_it_lacks(results):
    error = results["refused"][0]
    assert error is None or "needs the library libaio" in error


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match=r"offload_optimizer cpu .* do not go with zero_stage 0"):
        zero_settings(batch_size=1, on_gpu=False, zero_stage=0, offload_optimizer="cpu")
    with pytest.raises(UserError, match=r"offload_parameters cpu do not go with zero_stage 2"):
        zero_settings(batch_size=1, on_gpu=False, zero_stage=2, offload_parameters="cpu")
    with pytest.raises(UserError, match=r"nvme needs zero_stage 3 \(it is 3\) and nvme_path \(it is None\)"):
        zero_settings(batch_size=1, on_gpu=False, zero_stage=3, offload_optimizer="nvme")


def train_and_report(told):
    """What a worker of Ray Train does: three steps, each with a checkpoint, on from where an earlier run stopped."""
    engine = build("ddp", seed=told["seed"])
    done = checkpoints.resume(engine, told["checkpoint"]).step if told["checkpoint"] else 0
    losses = []
    for step in range(done, done + 3):
        losses += train(engine, [step], both_ranks_batch if dist.get_world_size() == 1 else None)
        said = {"step": step + 1, "position": {}, "model": "net", "figures": {"loss": losses[-1]}}
        metrics = {"validation_wer": told["wers"][step - done], "losses": list(losses)}
        checkpoints.report(engine, checkpoints.Facts.of(engine, **said), metrics)


def test_ray_train_keeps_the_best_checkpoint_and_the_latest_and_fewer_workers_go_on(ray, results, tmp_path):
    from ray import cloudpickle
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

    kept = checkpoints.best_kept(1, scored=True)

    def fit(name, workers, wers, checkpoint=None, seed=0):
        return TorchTrainer(
            train_and_report,
            train_loop_config={"wers": wers, "seed": seed, "checkpoint": checkpoint},
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(name=name, storage_path=str(tmp_path), checkpoint_config=kept),
        ).fit()

    first = fit("first", 2, [0.5, 0.2, 0.3])
    (best, _), *others = first.best_checkpoints
    latest = checkpoints.checkpoint_at(tmp_path / "first")
    assert not others
    assert [checkpoints.Facts.read(checkpoint).step for checkpoint in (best, latest)] == [2, 3]
    assert len(list((tmp_path / "first").glob("checkpoint_*/checkpoint.json"))) == 2

    second = fit("second", 1, [0.2, 0.2, 0.2], latest, seed=1)
    undisturbed = results["saved_by_two"][0]["ddp"]
    assert first.metrics["losses"] == pytest.approx(undisturbed[:3], abs=1e-6)
    assert second.metrics["losses"] == pytest.approx(undisturbed[3:], abs=1e-5)
    with pytest.raises(UserError, match="no complete checkpoint at"):
        checkpoints.checkpoint_at(tmp_path / "nowhere")


if __name__ == "__main__":
    name, ranks, port, home, rank = sys.argv[1:]
    run_as_rank(name, int(rank), int(ranks), port, Path(home))
