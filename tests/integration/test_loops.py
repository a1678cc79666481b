import subprocess
import sys

import pytest

from pipelines.ablate import ablate
from pipelines.adapt import adapt
from pipelines.config import AblateConfig, AdaptConfig
from pipelines.evaluation.config import TestSetConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.terms import read_terms
from pipelines.manifests.config import SizesConfig
from pipelines.release.config import GateConfig
from pipelines.training.config import DeepSpeedConfig, LearningConfig, SourceConfig
from rayapp.cli.output import Output
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.registry import Registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment(small_manifest, small_model):
    """Settings of both loops: as little as there can be of everything."""
    sizes = dict.fromkeys(SizesConfig.model_fields, 0)
    names = {"steering": "validation", "test": "test", "test_general": "test_general"}
    return {
        "start": str(small_model),
        "lexicon": LexiconConfig(take=6, held_out=4),
        "sizes": SizesConfig(**sizes | {"train_per_term": 2, "validation": 2}),
        "sets": {
            name: TestSetConfig(manifest=small_manifest, split=split, general=name == "test_general")
            for name, split in names.items()
        },
        "training": LearningConfig(max_steps=1, workers=1, deepspeed=DeepSpeedConfig(zero_stage=0)),
        "replay": (SourceConfig(manifest=small_manifest, utterances=4),),
    }


def test_a_round_is_planned_by_errors_judged_linked_and_not_made_twice(ray, experiment, tmp_path):
    gate = GateConfig(min_term_recall_gain=-1, max_general_wer_rise=9, min_utterances=1)
    config = AdaptConfig(**experiment, workdir=tmp_path / "adapt", rounds=1, gate=gate)
    (made,) = adapt(config, tmp_path / "home", Output(as_json=False))
    assert made.released
    lexicon = read_terms(config.workdir / "round-1" / "lexicon.csv")
    assert [term for term in lexicon if term.recall is not None]
    assert sum(term.weight for term in lexicon) == pytest.approx(sum(term.weight for term in read_terms()), rel=1e-3)
    assert 'href="../../round-0/evaluation/report.html"' in made.report.read_text()
    assert [event.action for event in Registry(tmp_path / "home").history("medical-asr")] == ["promoted"]
    before = {path: path.stat().st_mtime_ns for path in config.workdir.rglob("_COMPLETE")}
    adapt(config, tmp_path / "home", Output(as_json=False))
    assert {path: path.stat().st_mtime_ns for path in config.workdir.rglob("_COMPLETE")} == before


def test_a_later_round_learns_from_the_speech_of_all_and_from_what_is_replayed(experiment, tmp_path):
    speech = [tmp_path / "round-1" / "speech", tmp_path / "round-2" / "speech"]
    training = AdaptConfig(**experiment).model(tmp_path / "model", "start.nemo", speech)
    assert [source.manifest for source in training.sources] == [*map(str, speech), experiment["replay"][0].manifest]
    assert training.model.start == "start.nemo"


def test_a_point_of_an_ablation_is_made_once_whatever_it_is_compared_with(ray, experiment, tmp_path):
    config = AblateConfig(**experiment, workdir=tmp_path / "ablation", train_per_term=(2,))
    (point,) = ablate(config, tmp_path / "home", Output(as_json=False)).points
    assert point.hours > 0
    assert len(point.term_recall) == len(point.general_wer) == 3
    assert (config.workdir / point.report).is_file()
    speech = Manifest(config.workdir / point.report.replace("evaluation/report.html", "speech"))
    assert speech.count("train") == point.utterances
    twice = config.model_copy(update={"train_per_term": (2, 2)})
    ablation = ablate(twice, tmp_path / "home", Output(as_json=False))
    assert ablation.points == [point, point]
    assert len(list((config.workdir / "points").iterdir())) == 1


def test_a_gate_that_reads_what_is_not_judged_is_refused_before_anything_is_made(experiment, tmp_path):
    config = AdaptConfig(**experiment, workdir=tmp_path / "adapt", gate=GateConfig(term_set="ward"))
    with pytest.raises(UserError, match="the gate reads set 'ward', which is none of the sets: steering, test, "):
        adapt(config, tmp_path / "home", Output(as_json=False))
    assert not config.workdir.exists()


@pytest.mark.parametrize("command", ["adapt", "ablate"])
def test_a_loop_without_anything_to_learn_is_refused_before_anything_starts(command, tmp_path):
    (tmp_path / "config.yaml").write_text("start: nowhere\nsizes: {train_per_term: 0}\n")
    answer = subprocess.run(
        [sys.executable, "-m", "rayapp.cli", command, tmp_path / "config.yaml", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert answer.returncode == 2
    assert "train_per_term is 0; there is nothing to learn from" in answer.stderr
