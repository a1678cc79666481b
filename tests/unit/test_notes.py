"""What the driver of a training writes down, and finds again after it was killed."""

import json

import pytest

from pipelines.training.mixture import SetAside
from pipelines.training.notes import Notes


@pytest.fixture
def interrupted(tmp_path):
    """A folder in which a run was killed while it wrote a line."""
    notes = Notes(tmp_path, [SetAside("long", "it lasts 40 s")])
    notes.add([{"step": 0, "in_force": {}}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0, "samples": "losartan"}])
    notes.add([{"step": 2, "set_aside_utterances": [{"utterance_id": "broken", "reason": "it has no audio"}]}])
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    return tmp_path


def test_a_run_that_goes_on_knows_what_came_before(interrupted):
    notes = Notes(interrupted, [])
    notes.add([{"step": 1, "in_force": {}}, {"step": 2, "loss": 2.5}])
    assert notes.set_aside == {"long": "it lasts 40 s", "broken": "it has no audio"}
    assert [(entry["step"], entry.get("loss")) for entry in notes.history()] == [
        (0, None),
        (1, 4.0),
        (1, None),
        (2, 2.5),
    ]


def test_nothing_that_was_said_is_written_down(interrupted):
    assert "losartan" not in "".join(file.read_text() for file in interrupted.iterdir())


def test_at_the_end_only_the_list_of_what_was_set_aside_is_left(interrupted):
    notes = Notes(interrupted, [])
    notes.close()
    (left,) = interrupted.iterdir()
    assert left.name == "set_aside.jsonl"
    assert [json.loads(line)["utterance_id"] for line in left.read_text().splitlines()] == ["long", "broken"]
