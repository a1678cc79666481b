import json

import pytest

from pipelines.release.config import GateConfig, ReleaseConfig
from pipelines.release.gate import judge
from pipelines.release.release import release
from rayapp.errors import UserError
from rayapp.ids import path_id
from rayapp.registry import Registry
from rayapp.storage import published_folder

ALL = GateConfig(
    min_term_recall=0.8,
    max_unseen_term_recall_drop=0.05,
    max_false_terms_per_hour=1,
    max_characters_per_minute=10,
    max_calibration_error=0.1,
    min_rtfx=20,
)


def figures(**changed):
    """An evaluation that passes every rule; `set__figure__part=…` changes one."""
    told = {
        "test": {
            "term_recall": {"after": (0.9, 0.85, 0.94), "change": (0.9, 0.85, 0.94)},
            "calibration_error": {"after": (0.03, 0.02, 0.05)},
            "rtfx": {"after": (50.0, 45.0, 55.0)},
        },
        "test_unseen_terms": {"term_recall": {"change": (0.0, -0.02, 0.02), "after": (0.0, 0.0, 0.0)}},
        "test_general": {
            "wer": {"change": (0.0, -0.01, 0.01), "after": (0.1, 0.1, 0.1)},
            "false_terms_per_hour": {"after": (0.1, 0.0, 0.5)},
        },
        "silence": {"characters_per_minute": {"after": (2.0, 1.0, 4.0)}},
    }
    for name, value in changed.items():
        split, metric, part = name.split("__")
        told[split][metric][part] = value
    return {split: of | {"utterances": 240} for split, of in told.items()}


def test_a_good_model_passes_every_rule():
    assert [verdict.passed for verdict in judge(ALL, figures())] == [True] * 8


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"test__term_recall__after": (0.82, 0.79, 0.85)}, "term recall on test is at least 80.0%"),
        ({"test__term_recall__change": (0.1, -0.02, 0.2)}, "term recall on test rises by more than 0.0%"),
        ({"test__term_recall__change": (0.0, 0.0, 0.0)}, "term recall on test rises by more than 0.0%"),
        ({"test_unseen_terms__term_recall__change": (-0.04, -0.1, 0.0)}, "test_unseen_terms falls by at most 5.0%"),
        ({"test_general__wer__change": (0.015, 0.0, 0.03)}, "word error rate on test_general rises by at most 2.0%"),
        ({"test_general__false_terms_per_hour__after": (0.9, 0.1, 2.0)}, "an hour of test_general 1"),
        ({"silence__characters_per_minute__after": (8.0, 2.0, 12.0)}, "a minute 10"),
        ({"test__calibration_error__after": (0.09, 0.08, 0.11)}, "confidence on test is off by at most 10.0%"),
        ({"test__rtfx__after": (21.0, 19.0, 25.0)}, "faster than real time on test 20"),
    ],
)
def test_each_rule_reads_the_cautious_end_of_its_interval(changed, rule):
    (failed,) = [verdict for verdict in judge(ALL, figures(**changed)) if not verdict.passed]
    assert rule in failed.rule
    assert "95 % interval" in failed.figure


def test_a_handful_of_utterances_decides_nothing():
    few = figures()
    few["test"]["utterances"] = 5
    (failed,) = [verdict for verdict in judge(ALL, few) if not verdict.passed]
    assert (failed.rule, failed.figure) == ("test has at least 30 utterances", "5")


def test_rules_that_are_null_do_not_count():
    gate = GateConfig(min_term_recall_gain=None)
    assert [verdict.rule for verdict in judge(gate, figures())] == [
        "word error rate on test_general rises by at most 2.0%"
    ]


def test_a_gate_without_rules_lets_nothing_pass():
    with pytest.raises(UserError, match="no rule, and would let everything pass"):
        judge(GateConfig(min_term_recall_gain=None, max_general_wer_rise=None), figures())


def test_a_gate_that_reads_what_was_not_evaluated_says_so():
    with pytest.raises(UserError, match=r"min_term_recall_gain reads set 'other', which was not .* there are test, "):
        judge(GateConfig(term_set="other"), figures())
    with pytest.raises(UserError, match="nothing to count"):
        judge(GateConfig(), figures(test__term_recall__change=None, test__term_recall__after=None))
    with pytest.raises(UserError, match="evaluate with `before`"):
        judge(GateConfig(), figures(test__term_recall__change=None))


@pytest.fixture
def evaluated(tmp_path):
    """Folder of an evaluation of one small file against another."""

    def make(before: str | None, after: str):
        models = {}
        for part, content in {"before": before, "after": after}.items():
            if content is not None:
                file = tmp_path / f"{content}.nemo"
                file.write_text(content)
                models[part] = {"path": str(file), "model_id": path_id(file)}
        folder = tmp_path / f"{before}-{after}"
        with published_folder(folder, after) as staging:
            (staging / "models.json").write_text(json.dumps(models))
            (staging / "figures.json").write_text(json.dumps(figures()))
        return ReleaseConfig(evaluation=folder, gate=GateConfig(max_general_wer_rise=0.02))

    return make


def test_a_release_says_when_it_was_not_compared_with_the_champion(evaluated, tmp_path):
    first = release(evaluated("base", "first"), tmp_path)
    assert (first.passed, first.remark) == (True, "")
    assert release(evaluated("base", "first"), tmp_path).remark == ""  # it is the champion itself
    assert release(evaluated("first", "second"), tmp_path).remark == ""
    third = release(evaluated("base", "third"), tmp_path, "a new start")
    assert third.remark == f"compared with {tmp_path / 'base.nemo'}, not with the champion, version 2"
    assert (
        release(evaluated(None, "fourth"), tmp_path).remark == "compared with nothing, not with the champion, version 3"
    )
    assert third.champion
    Registry(tmp_path).roll_back("medical-asr", "")
    again = release(evaluated(None, "fourth"), tmp_path)
    assert (again.passed, again.champion) == (True, False)
    *_, event, _, _ = Registry(tmp_path).history("medical-asr")
    assert event.why.startswith(f"a new start: {third.remark}: term recall on test")
