import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation import hearing
from pipelines.evaluation.config import EvaluationConfig, TestSetConfig
from pipelines.evaluation.evaluate import evaluate
from pipelines.release.config import GateConfig, ReleaseConfig
from pipelines.release.release import release
from rayapp.errors import UserError
from rayapp.manifest import Manifest
from rayapp.registry import Registry
from rayapp.storage import published_folder

pytestmark = pytest.mark.slow

SPLITS = ("test", "test_general")


def sets(manifest):
    return {split: TestSetConfig(manifest=manifest, split=split, general=split == "test_general") for split in SPLITS}


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    return tmp_path_factory.mktemp("heard")


@pytest.fixture(scope="module")
def evaluation(ray, small_manifest, small_model, heard, tmp_path_factory):
    """A model compared with itself: every change is nothing."""
    output = tmp_path_factory.mktemp("evaluation") / "same"
    model = small_model / "model.nemo"
    config = EvaluationConfig(
        output=output,
        sets=sets(small_manifest),
        before=model,
        after=small_model,
        heard=heard,
        silence_minutes=0.5,
        workers=1,
        examples=4,
    )
    evaluate(config, tmp_path_factory.mktemp("tracking"))
    return output


@pytest.fixture(scope="module")
def home(evaluation, tmp_path_factory):
    """A registry whose champion passed a gate that lets a tie pass."""
    folder = tmp_path_factory.mktemp("registry")
    released = release(
        ReleaseConfig(evaluation=evaluation, gate=GateConfig(min_term_recall_gain=-0.01, min_utterances=1)), folder
    )
    assert released.version == "1"
    assert released.passed
    return folder


def test_an_evaluation_has_figures_what_was_heard_and_a_report(evaluation):
    figures = json.loads((evaluation / "figures.json").read_text())
    assert set(figures) == {*SPLITS, "silence"}
    for split in SPLITS:
        before, after, change = (figures[split]["wer"][k] for k in ("before", "after", "change"))
        assert before == after
        assert change == [0, 0, 0]
        assert before[1] <= before[0] <= before[2]
        assert figures[split]["rtfx"]["after"][0] > 0
        assert figures[split]["word_time_error"]["after"] is None or figures[split]["word_time_error"]["after"][0] < 5
    assert figures["test_general"]["term_recall"]["after"] is None
    assert figures["silence"]["utterances"] == 2
    assert figures["silence"]["characters_per_minute"]["after"][0] >= 0
    assert pq.read_table(evaluation / "terms.parquet").num_rows >= 6
    assert "test,term_recall," in (evaluation / "figures.csv").read_text()
    assert (evaluation / "report.html").read_text().count('"audio":{"') == 1


def test_what_was_heard_once_is_not_heard_again(
    ray, evaluation, small_manifest, small_model, heard, tmp_path, monkeypatch
):
    asked = []
    by_ray = hearing._heard_by_ray
    monkeypatch.setattr(hearing, "_heard_by_ray", lambda new, *rest: (asked.extend(new), by_ray(new, *rest))[1])
    config = EvaluationConfig(
        output=tmp_path / "again",
        sets={"renamed": sets(small_manifest)["test"]},
        after=small_model,
        heard=heard,
        silence_minutes=0.5,
        workers=1,
        seed=1,
    )
    evaluate(config, tmp_path)
    assert asked == []
    assert not any(heard.glob(".*"))


def test_speech_that_the_model_was_trained_on_is_refused(ray, small_manifest, small_model, tmp_path):
    trained = {"test": TestSetConfig(manifest=small_manifest, split="train")}
    with pytest.raises(UserError, match=r"set test: \d+ of its \d+ transcripts stand in the manifests that the model"):
        evaluate(EvaluationConfig(output=tmp_path / "out", sets=trained, after=small_model), tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text": [None]}, r"1 of 1 utterances of .*, split 'test', have no text"),
        ({"text": []}, r"split 'test' of .* is empty"),
    ],
)
def test_speech_that_cannot_be_judged_is_named(ray, small_manifest, small_model, tmp_path, changed, message):
    table = Manifest(small_manifest).read("test").slice(0, len(next(iter(changed.values()))))
    for name, values in changed.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    with published_folder(tmp_path / "speech", "speech") as staging:
        (staging / "data").mkdir()
        pq.write_table(table, staging / "data" / "test-00000-of-00001.parquet")
    bad = {"test": TestSetConfig(manifest=tmp_path / "speech")}
    with pytest.raises(UserError, match=message):
        evaluate(
            EvaluationConfig(output=tmp_path / "out", sets=bad, after=small_model, heard=tmp_path / "h", workers=1),
            tmp_path,
        )
    assert not (tmp_path / "out").exists()


def test_a_tie_is_refused_by_the_usual_gate_and_no_alias_moves(evaluation, tmp_path):
    verdicts = release(ReleaseConfig(evaluation=evaluation, gate=GateConfig(min_utterances=1)), tmp_path).verdicts
    assert [verdict.passed for verdict in verdicts] == [False, True]
    with pytest.raises(UserError, match=r"no model medical-asr@champion; known: medical-asr@challenger"):
        Registry(tmp_path).resolve("medical-asr")


def test_releasing_the_same_again_makes_no_second_version(evaluation, home):
    config = ReleaseConfig(evaluation=evaluation, gate=GateConfig(min_term_recall_gain=-0.01, min_utterances=1))
    assert release(config, home).version == "1"
    (model,) = Registry(home).list()
    assert (model.name, model.version, model.aliases) == ("medical-asr", "1", ("champion",))
    assert "test.wer" in model.figures


def test_a_model_that_changed_since_it_was_judged_is_not_released(evaluation, tmp_path):
    judged = json.loads((evaluation / "models.json").read_text())
    copy = tmp_path / "evaluation"
    shutil.copytree(evaluation, copy)
    (tmp_path / "model.nemo").write_bytes(b"trained again")
    judged["after"]["path"] = str(tmp_path / "model.nemo")
    (copy / "models.json").write_text(json.dumps(judged))
    with pytest.raises(UserError, match=r"model\.nemo is not the model that .* judged: evaluate it again"):
        release(ReleaseConfig(evaluation=copy), tmp_path)
