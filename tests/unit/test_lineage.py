import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from pyarrow import fs

from pipelines.config import SynthesisConfig
from pipelines.evaluation.config import EvaluationConfig, TestSetConfig
from pipelines.manifests.merge import merge
from pipelines.manifests.rows import manifest_table
from pipelines.training.config import ModelConfig, SourceConfig, TrainingConfig
from rayapp.config import save_config
from rayapp.errors import UserError
from rayapp.lineage import Lineage
from rayapp.plan import write_plan
from rayapp.records import Term, Utterance
from rayapp.registry import Registry
from rayapp.storage import join, name_of, open_filesystem, published_folder, write_file

PACKAGED = "lexicon packaged with rayapp"


@pytest.fixture
def manifest(write_manifest):
    """Publishes rows with the settings of a synthesis beside them, and the plan of some slots."""

    def make(rows, name="speech", planned=()):
        location = Path(write_manifest(rows, name))
        save_config(SynthesisConfig(output=str(location)), location)
        write_plan(planned, join(location, "plan", "round-00"))
        return str(location)

    return make


@pytest.fixture
def trained(tmp_path):
    """Publishes a model with the settings of a training on the train split of a manifest."""

    def make(manifest, name="model", start=None):
        config = TrainingConfig(
            output=tmp_path / name,
            sources=(SourceConfig(manifest=manifest),),
            validation=(SourceConfig(manifest=manifest, split="validation"),),
            model=ModelConfig(start=f"{start}/model.nemo") if start else ModelConfig(recipe="fastconformer_tdt_small"),
        )
        return publish(config, "model.nemo")

    return make


@pytest.fixture
def judged(tmp_path):
    """Publishes an evaluation of a model on the test split of a manifest."""

    def make(manifest, before, after):
        before, after = f"{before}/model.nemo", f"{after}/model.nemo"
        output = tmp_path / "evaluation"
        sets = {"test": TestSetConfig(manifest=manifest)}
        config = EvaluationConfig(output=output, sets=sets, before=before, after=after)
        return publish(config, "figures.json")

    return make


def publish(config, file):
    with published_folder(Path(config.output), f"key-of-{name_of(config.output)}") as folder:
        save_config(config, folder)
        (folder / file).write_text("{}")
    return str(config.output)


def only(traces):
    (trace,) = traces
    return trace


def test_an_utterance_is_followed_to_its_slot_and_to_the_models_that_learnt_from_it(
    tmp_path, manifest, trained, utterances
):
    speech = manifest(utterances)
    base = trained(speech, "base")
    adapted = trained(speech, "adapted", start=base)
    trace = only(Lineage([tmp_path]).trace(utterances[0].utterance_id))
    assert trace.what == f"utterance {utterances[0].utterance_id}"
    assert trace.facts["text"] == "please start losartan today"
    assert trace.came_from == [f"slot a1 of {speech}/plan", f"manifest {speech}", PACKAGED]
    assert set(trace.went_into) == {f"model {base}", f"model {adapted}"}


def test_an_utterance_goes_by_its_slot_and_by_the_hash_of_its_audio(tmp_path, manifest, utterances):
    manifest(utterances)
    audio_hash = manifest_table(utterances[:1])["audio_hash"][0].as_py()
    for name in ("a1", audio_hash):
        assert only(Lineage([tmp_path]).trace(name)).facts["utterance_id"] == utterances[0].utterance_id


def test_only_what_reads_its_split_is_what_an_utterance_went_into(tmp_path, manifest, trained, judged, utterances):
    speech = manifest(utterances)
    base, adapted = trained(speech, "base"), trained(speech, "adapted")
    evaluation = judged(speech, base, adapted)
    lineage = Lineage([tmp_path])
    assert only(lineage.trace("c1")).went_into == [f"evaluation {evaluation}"]
    assert only(lineage.trace("c2")).went_into == []  # of a split that was not evaluated
    assert f"model {base}" in only(lineage.trace("b1")).went_into  # whose epoch is kept depends on validation


def test_a_rejected_row_tells_why_and_went_nowhere(tmp_path, manifest, trained, utterances):
    speech = manifest(utterances)
    trained(speech)
    for name in ("d1", utterances[6].utterance_id):
        trace = only(Lineage([tmp_path]).trace(name))
        assert trace.what == f"rejected utterance {utterances[6].utterance_id}"
        assert trace.facts["status"] == "rejected"
        assert trace.facts["reason"] == "verify: WER 0.62 is above 0.3"
        assert f"slot d1 of {speech}/plan" in trace.came_from
        assert trace.went_into == []


def test_a_term_counts_its_rows_by_split_and_those_that_were_rejected(tmp_path, manifest, trained, utterances):
    speech = manifest(utterances)
    model = trained(speech)
    trace = only(Lineage([tmp_path]).trace("LoSartan"))
    assert trace.facts == {
        "utterances": 6,
        "by_split": {"test": 1, "test_general": 1, "train": 3, "validation": 1},
        "rejected": 1,
        "rejected_because": {"verify: WER # is above #": 1},
    }
    assert trace.came_from == [PACKAGED]
    assert trace.went_into == [f"manifest {speech}", f"model {model}"]


def test_a_term_without_a_sentence_is_known_from_the_plan(tmp_path, manifest, slot, utterances):
    unwritten = slot(slot_id="e1", seed=20, term=Term("Ibuprofen"))
    rejected = Utterance(unwritten).rejected("transcript: no sentence was written")
    manifest([*utterances, rejected], planned=[slot(slot_id="a1"), unwritten])
    lineage = Lineage([tmp_path])
    trace = only(lineage.trace("ibuprofen"))
    assert trace.facts["utterances"] == 0
    assert trace.facts["rejected_because"] == {"transcript: no sentence was written": 1}
    assert only(lineage.trace("e1")).facts["terms"] == ["Ibuprofen"]
    assert only(lineage.trace("losartan")).facts["rejected"] == 1


def test_a_term_that_is_only_tested_did_not_go_into_a_model(tmp_path, manifest, trained, judged, utterances):
    speech = manifest(utterances[4:6])
    model = trained(speech)
    assert only(Lineage([tmp_path]).trace("losartan")).went_into == [f"manifest {speech}"]
    evaluation = judged(speech, model, model)
    assert only(Lineage([tmp_path]).trace("losartan")).went_into == [f"manifest {speech}", f"evaluation {evaluation}"]


def test_a_transcript_is_followed_to_all_that_speak_it_in_all_manifests(tmp_path, manifest, trained, spoken):
    said = [spoken(slot_id=f"s{seed}", seed=seed) for seed in range(3)]
    other = spoken("we stopped losartan", slot_id="s9")
    one, two = manifest([*said[:2], other], "one"), manifest(said[2:], "two")
    model = trained(two)
    trace = only(Lineage([tmp_path]).trace(said[0].transcript.transcript_id))
    assert trace.facts["text"] == "please start losartan today"
    assert trace.facts["utterances"] == 3
    assert trace.came_from == [f"manifest {one}", PACKAGED, f"manifest {two}"]
    assert trace.went_into == [
        *(f"utterance {u.utterance_id} in train of {place}" for u, place in zip(said, (one, one, two), strict=True)),
        f"model {model}",
    ]


@pytest.mark.parametrize("name", ["model", "key-of-model", "{folder}", "{folder}/"])
def test_a_run_goes_by_its_folder_and_by_its_key(tmp_path, manifest, trained, utterances, name):
    speech = manifest(utterances)
    model = trained(speech)
    trace = only(Lineage([tmp_path]).trace(name.format(folder=model)))
    assert trace.what == f"model {model}"
    assert trace.came_from == [f"manifest {speech}", PACKAGED]


def test_the_folder_of_several_steps_stands_for_all_of_them(tmp_path, manifest, trained, utterances):
    trained(manifest(utterances, "runs/one/speech"), "runs/one/model")
    manifest(utterances, "runs/two/speech")
    lineage = Lineage([tmp_path / "runs"])
    for name in ("one", f"{tmp_path}/runs/one"):
        assert sorted(trace.what.partition(" ")[0] for trace in lineage.trace(name)) == ["manifest", "model"]


def test_runs_that_were_copied_elsewhere_name_one_another_still(tmp_path, manifest, trained, utterances, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_config(SynthesisConfig(output="runs/speech"), Path(manifest(utterances, "runs/speech")))
    config = TrainingConfig(
        output="runs/model",
        sources=(SourceConfig(manifest="runs/speech"),),
        model=ModelConfig(recipe="fastconformer_tdt_small"),
    )
    publish(config, "model.nemo")
    shutil.move("runs", "elsewhere/runs")
    assert only(Lineage([tmp_path]).trace("model")).came_from == [
        f"manifest {tmp_path}/elsewhere/runs/speech",
        PACKAGED,
    ]


def test_what_is_named_and_not_there_is_told(tmp_path, manifest, trained, utterances):
    model = trained(manifest(utterances, "speech/gone"))
    trace = only(Lineage([model]).trace("model"))
    assert trace.came_from == [f"manifest {tmp_path}/speech/gone (not published in any folder that was looked in)"]


@pytest.fixture
def merged(tmp_path, manifest, utterances):
    """Two manifests, and what they were merged into."""
    one, two = manifest(utterances[:3], "one"), manifest(utterances[3:], "two")
    merge([one, two], str(tmp_path / "both"))
    return one, two, str(tmp_path / "both")


def test_a_merged_manifest_came_from_its_sources_and_they_went_into_it(tmp_path, merged, trained):
    one, two, both = merged
    model = trained(both)
    lineage = Lineage([tmp_path])
    assert only(lineage.trace("both")).came_from == [f"manifest {one}", PACKAGED, f"manifest {two}"]
    assert only(lineage.trace("one")).went_into == [f"manifest {both}", f"model {model}"]


def test_an_utterance_that_was_merged_is_told_once_with_what_learnt_from_it(tmp_path, merged, trained, utterances):
    one, two, both = merged
    model = trained(both)
    trace = only(Lineage([tmp_path]).trace(utterances[0].utterance_id))
    assert trace.came_from == [f"slot a1 of {one}/plan", f"manifest {one}", PACKAGED]
    assert trace.went_into == [f"manifest {both}", f"model {model}"]
    rejected = only(Lineage([tmp_path]).trace("d1"))
    assert rejected.came_from[1] == f"manifest {two}"
    assert rejected.went_into == [f"manifest {both}"]


def test_a_source_that_was_moved_is_found_by_its_key_and_one_that_was_replaced_is_not_taken_for_it(
    tmp_path, merged, manifest, utterances
):
    one, two, _ = merged
    shutil.move(one, tmp_path / "moved")
    shutil.rmtree(two)
    shutil.move(manifest(utterances[:2], "anew"), two)
    lineage = Lineage([tmp_path])
    assert only(lineage.trace("both")).came_from == [
        f"manifest {two} (not found, or made anew since)",
        f"manifest {tmp_path}/moved",
        PACKAGED,
    ]
    assert only(lineage.trace("two")).went_into == []


def test_a_served_model_is_followed_down_to_the_lexicon_and_up_from_a_term(
    tmp_path, manifest, trained, judged, utterances
):
    speech = manifest(utterances)
    base = trained(speech, "base")
    model = trained(speech, "adapted", start=base)
    evaluation = judged(speech, base, model)
    registry = Registry(tmp_path / "registry")
    file = Path(model) / "model.nemo"
    registry.publish("medical-asr", file, "model", {}, [], "key", Path(evaluation))
    registry.promote("medical-asr", "1", "champion")
    lineage = Lineage([tmp_path], registry)
    for name in ("medical-asr", "medical-asr:1", "medical-asr@champion"):
        served = only(lineage.trace(name))
        assert served.what == "model medical-asr:1"
        assert served.came_from[:2] == [f"evaluation {evaluation}", f"model {model}"]
        assert {f"model {base}", f"manifest {speech}", PACKAGED} == set(served.came_from[2:])
        assert served.went_into == ["alias medical-asr@champion"]
    assert "model medical-asr:1 (champion)" in only(lineage.trace("losartan")).went_into
    assert "model medical-asr:1 (champion)" in only(lineage.trace("a1")).went_into
    assert only(lineage.trace("c1")).went_into == [
        f"evaluation {evaluation}",
        "model medical-asr:1 (champion), judged there",
    ]
    assert not lineage.trace("medical-asr@challenger")


def on_s3(local, location):
    filesystem, path = open_filesystem(location)
    fs.copy_files(local, path, destination_filesystem=filesystem)
    return location


def test_an_utterance_in_a_manifest_on_an_object_store_is_followed(s3, manifest, utterances):
    speech = on_s3(manifest(utterances), s3("lineage/runs/speech"))
    merge([speech], s3("lineage/both"))
    lineage = Lineage([s3("lineage")])
    trace = only(lineage.trace(utterances[0].utterance_id))
    assert trace.facts["text"] == "please start losartan today"
    assert trace.came_from == [f"slot a1 of {join(speech, 'plan')}", f"manifest {speech}", PACKAGED]
    assert trace.went_into == [f"manifest {s3('lineage/both')}"]
    assert only(lineage.trace("d1")).facts["reason"] == "verify: WER 0.62 is above 0.3"
    assert only(lineage.trace(s3("lineage/both"))).came_from == [f"manifest {speech}", PACKAGED]
    assert {trace.facts["rejected"] for trace in lineage.trace("Losartan")} == {1}


def test_of_other_objects_no_more_than_the_names_are_read(s3, manifest, utterances):
    on_s3(manifest(utterances), s3("quiet/runs/speech"))
    for number in range(3):
        write_file(join(s3("quiet"), "artifacts", f"run-{number}", "model.nemo"), b"x")
    read = objects_read(s3, lambda: Lineage([s3("quiet")]))
    assert {path.partition("/quiet/")[2] for path in read} == {"runs/speech/_COMPLETE", "runs/speech/config.json"}


def objects_read(s3, action):
    """The paths of the objects that an action gets, as the server recorded them."""
    host = s3("").partition("endpoint_override=")[2].partition("&")[0]

    def tell(what, method="POST"):
        request = urllib.request.Request(f"http://{host}/moto-api/recorder/{what}", method=method)
        with urllib.request.urlopen(request) as answer:
            return answer.read().decode()

    tell("reset-recording")
    tell("start-recording")
    action()
    tell("stop-recording")
    entries = [json.loads(line) for line in tell("download-recording", "GET").splitlines()]
    return [entry["url"].partition("?")[0] for entry in entries if entry["method"] == "GET" and "?" not in entry["url"]]


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="none does not exist"):
        Lineage([tmp_path / "none"])


def test_a_shard_that_cannot_be_read_is_named(tmp_path, manifest, utterances):
    speech = manifest(utterances)
    (Path(speech) / "data" / "train-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet .*cannot be read"):
        Lineage([tmp_path]).trace("a1")


def test_a_manifest_of_another_tool_is_searched_as_far_as_it_tells(tmp_path, write_manifest, utterances):
    rows = manifest_table(utterances).drop_columns(["slot_id", "transcript_id", "terms", "reason", "steps"])
    other = write_manifest(rows)
    trace = only(Lineage([tmp_path]).trace(utterances[0].utterance_id))
    assert trace.came_from == [f"manifest {other}", "lexicon unknown: the folder does not tell"]


def test_overlapping_roots_and_links_tell_nothing_twice(tmp_path, manifest, utterances):
    manifest(utterances, "runs/speech")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    assert only(Lineage([tmp_path, tmp_path / "runs", f"file://{tmp_path}/runs"]).trace("a1"))


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rayapp.cli", "trace", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"COLUMNS": "120"},
    )


def test_the_command_tells_people_and_programs(tmp_path, manifest, utterances):
    manifest(utterances)
    shown = run("losartan", "--in", tmp_path, "--home", tmp_path / "none")
    assert shown.returncode == 0, shown.stderr
    assert "  by_split: test (1), test_general (1), train (3), validation (1)\n" in shown.stdout
    assert f"  went into  manifest {tmp_path}/speech\n" in shown.stdout
    told = json.loads(run("d1", "--in", tmp_path, "--home", tmp_path / "none", "--json").stdout)
    assert told["traces"][0]["facts"]["reason"] == "verify: WER 0.62 is above 0.3"


def test_what_nobody_knows_is_an_error_that_says_where_it_was_looked_for(tmp_path, manifest, utterances):
    manifest(utterances)
    answer = run("unheard-of", "--in", tmp_path, "--home", tmp_path / "none")
    assert answer.returncode == 2
    assert f"nothing goes by 'unheard-of' in {tmp_path}; --in names other folders" in answer.stderr
