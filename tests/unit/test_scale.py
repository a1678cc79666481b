"""From the settings of a run, its rates and a cluster to a forecast."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.capacity.config import ScaleConfig
from pipelines.config import SynthesisConfig
from pipelines.estimate import Rates
from pipelines.scale import forecast
from pipelines.speech.config import CoquiConfig, SpeechConfig
from pipelines.synthesize import SUMMARY
from pipelines.transcripts.config import TranscriptsConfig
from rayapp.config import checked_config, load_config
from rayapp.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config():
    """The grammar writes, Coqui speaks on a GPU in four workers, and three share what else there is."""
    return SynthesisConfig(
        transcripts=TranscriptsConfig(rounds=2),
        speech=SpeechConfig(engine="coqui", coqui=CoquiConfig(workers=4, gpus=0.5)),
        workers=3,
    )


@pytest.fixture
def rates():
    seconds = {"transcript": 0.01, "speech": 0.2, "room": 0.01, "noise": 0.02, "microphone": 0.01}
    return Rates("a run", audio_seconds=3.6, bytes=1e5, seconds_by_stage=seconds, kept_share=0.9)


def scale(groups=(), **changes):
    values = {
        "hours": 99,
        "planned_per_second": 1e12,
        "nodes": {
            "gpu": {"cpus": 8, "gpus": 1, "price_hour": 2, "max_nodes": 4, "boot_minutes": 0},
            "cpu": {"cpus": 8, "price_hour": 0.3, "max_nodes": 4, "boot_minutes": 0},
        },
        "groups": {"transcript": {"node": "cpu"}, "speech": {"node": "gpu"}, "room": {"node": "cpu"}} | dict(groups),
    }
    return checked_config(ScaleConfig, values | changes)


def test_a_forecast_takes_groups_workers_and_rates_from_the_run(config, rates):
    told = forecast(config, rates, scale())
    assert told.outcome.utterances == 100_000 + 10_000  # nine of ten are kept, and then nine of the tenth that was not
    assert [(group.name, group.most_workers) for group in told.outcome.groups] == [
        ("transcript", 3),
        ("speech", 4),
        ("room", 3),
    ]
    assert [group.seconds_per_utterance for group in told.outcome.groups] == pytest.approx([0.01, 0.2, 0.04])
    assert told.outcome.wall_hours == pytest.approx(110_000 * 0.2 / 4 / 3600, rel=0.05)
    assert told.bottleneck.group == "speech"
    assert [nodes.most for nodes in told.outcome.nodes] == [2, 1]
    json.dumps(told.as_json())


def test_the_bottleneck_is_the_group_whose_widening_saves_most(config, rates):
    told = forecast(config, rates, scale({"speech": {"node": "gpu", "max_workers": 8, "min_workers": 8}}))
    assert [wider.group for wider in told.wider] == ["transcript", "speech", "room"]
    assert (told.bottleneck.group, told.bottleneck.workers) == ("speech", 1)  # and a fifth node for it
    assert told.bottleneck.wall_hours == pytest.approx(told.outcome.wall_hours * 8 / 9, rel=0.05)


def test_the_bottleneck_moves_on_when_it_is_widened_beyond_the_next_group(config, rates):
    many = scale({"speech": {"node": "gpu", "min_workers": 80, "max_workers": 80}})
    many = many.model_copy(
        update={"nodes": many.nodes | {"gpu": many.nodes["gpu"].model_copy(update={"max_nodes": 99})}}
    )
    assert forecast(config, rates, many).bottleneck.group == "room"


def test_where_starting_takes_the_time_no_group_is_the_bottleneck(config, rates):
    slow = {name: {"node": "gpu" if name == "speech" else "cpu", "load_seconds": 7200} for name in scale().groups}
    assert forecast(config, rates, scale(slow, hours=0.1)).bottleneck is None


def test_what_a_group_takes_can_be_assumed(config, rates):
    told = forecast(config, rates, scale({"speech": {"node": "gpu", "seconds_per_utterance": 0.05}}))
    speech = told.outcome.groups[1]
    assert (speech.seconds_per_utterance, speech.measured) == (0.05, False)


@pytest.mark.parametrize(("hours", "in_time"), [(1, False), (3, True), (None, None)])
def test_a_deadline_is_met_or_not(config, rates, hours, in_time):
    assert forecast(config, rates, scale(deadline_hours=hours)).in_time is in_time


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"speach": {"node": "gpu"}}, r"groups\.speach is no group of this run; .* transcript, speech, room"),
        ({"noise": {"node": "gpu"}}, r"groups\.noise is no group of this run; a group goes by .* its first stage"),
    ],
)
def test_a_group_that_the_run_does_not_have_is_refused(config, rates, groups, message):
    with pytest.raises(UserError, match=message):
        forecast(config, rates, scale(groups))


def test_a_group_that_has_no_node_is_refused(config, rates):
    without = scale().model_copy(update={"groups": {k: v for k, v in scale().groups.items() if k != "speech"}})
    with pytest.raises(UserError, match=r"groups has nothing for speech: .* groups\.speech\.node = gpu .* gpu, cpu"):
        forecast(config, rates, without)


def test_a_stage_without_a_rate_is_refused_unless_one_is_assumed(config, rates):
    untold = Rates("a run", 3.6, 1e5, {"transcript": 0.01, "room": 0.01, "noise": 0.02, "microphone": 0.01}, 0.9)
    with pytest.raises(UserError, match=r"no rate is known of speech \(rates: a run\): .* groups\.speech\.seconds_per"):
        forecast(config, untold, scale())
    assert forecast(config, untold, scale({"speech": {"node": "gpu", "seconds_per_utterance": 0.1}}))


def test_a_run_that_kept_nothing_gives_no_forecast(config, rates):
    nothing = Rates("a run", 0.0, 0.0, rates.seconds_by_stage, 0.0)
    with pytest.raises(UserError, match=r"a run came to no audio: take the rates of a run that kept some"):
        forecast(config, nothing, scale())


@pytest.fixture
def plan(tmp_path):
    """Run `rayapp plan` with the rates of a laptop's run."""
    stages = ["transcript", "speech", "speed", "padding", "room", "noise", "response", "microphone", "codec", "verify"]
    summary = {"slots": 100, "kept": 95, "audio_seconds": 380.0, "bytes": 10_000_000}
    busy = {name: {"rows": 100, "busy_seconds": 1.0} for name in stages}
    (tmp_path / SUMMARY).write_text(json.dumps(summary | {"stages": busy}))

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "rayapp.cli", "plan", str(ROOT / "configs/synthesize-cluster.yaml"),
             "--set", "lexicon.path=null", "--rates", str(tmp_path), *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"COLUMNS": "160"},
        )  # fmt: skip

    return run


def test_the_shipped_cluster_is_simulated_for_the_shipped_run(plan):
    answer = plan("--scale", ROOT / "configs/scale.yaml", "--hours", 200, "--json")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert told["hours"] == 200
    assert [group["name"] for group in told["outcome"]["groups"]] == ["vllm", "speech", "speed", "listen"]
    assert told["outcome"]["wall_hours"] > 0
    assert told["bottleneck"] is None  # so little is done before all workers have started


def test_a_person_is_told_time_cost_bottleneck_and_nodes(plan):
    answer = plan("--scale", ROOT / "configs/scale.yaml", "--hours", 200)
    assert answer.returncode == 0, answer.stderr
    for told in (
        "200 h of speech kept",
        "wall time",
        "deadline of",
        "cost",
        "bottleneck: ",
        "done again",
        "assumed for",
    ):
        assert told in answer.stdout


def test_hours_without_a_cluster_are_refused(plan):
    answer = plan("--hours", 5)
    assert answer.returncode == 2
    assert "--hours 5 goes with --scale FILE" in answer.stderr


def test_the_shipped_cluster_says_what_it_assumes():
    config = load_config(ScaleConfig, ROOT / "configs/scale.yaml", [], {})
    lines = (ROOT / "configs/scale.yaml").read_text().splitlines()
    for name, group in config.groups.items():
        line = next(line for line in lines if line.strip().startswith(f"{name}:"))
        assert ("assumed" in line) == (group.seconds_per_utterance is not None)
