import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from pipelines.manifests.rows import manifest_table
from rayapp.manifest import Manifest

PROGRAM = "from rayapp.cli.manifest import app; app(prog_name='rayapp manifest')"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"COLUMNS": "120"},
    )


@pytest.fixture
def location(write_manifest, utterances):
    return write_manifest(utterances)


def test_help_is_quick_because_nothing_heavy_is_imported():
    program = (
        "import sys, rayapp.cli.manifest\n"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'nemo', 'lhotse', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("command", ["show", "stats", "validate", "merge", "diff", "export nemo-tar"])
def test_each_command_explains_itself_with_an_example(command):
    answer = run(*command.split(), "--help")
    assert answer.returncode == 0
    assert "--json" in answer.stdout
    assert f"Example: rayapp manifest {command}" in answer.stdout


def test_rows_are_shown_of_all_splits(location):
    answer = run("show", location, "--rows", 5)
    assert answer.returncode == 0, answer.stderr
    assert "please start losartan today" in answer.stdout
    assert "she has losartan at night" in answer.stdout
    assert "12.0 dB" in answer.stdout


def test_rejected_rows_are_shown_when_asked_for(location):
    rows = json.loads(run("show", location, "--split", "rejected", "--json").stdout)["rows"]
    assert [row["text"] for row in rows] == ["losartan that nobody heard"]


def test_stats_say_the_same_to_people_and_to_programs(location):
    told = json.loads(run("stats", location, "--json").stdout)
    assert told["utterances"] == 6
    assert told["by_split"]["train"]["utterances"] == 3
    assert told["voices_by_accent"]["en-gb-scotland"] == ["en-gb-scotland+f2"]
    assert told["rejections"] == {"verify: WER # is above #": 1}
    assert f"{told['by_split']['train']['seconds'] / 3600:.2f}" in run("stats", location).stdout


def test_a_valid_manifest_ends_well(location):
    answer = run("validate", location, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == {"valid": True, "decoded": 6, "problems": {}, "missing_columns": []}


def test_a_manifest_with_a_fault_exits_with_2_and_shows_it(write_manifest, utterances):
    rows = manifest_table(utterances).to_pylist()
    rows[0]["text"] = "please start [bold]aspirin[/bold] today"
    answer = run("validate", write_manifest(pa.Table.from_pylist(rows, manifest_table([]).schema)))
    assert answer.returncode == 2
    assert "'losartan' is not in 'please start [bold]aspirin" in " ".join(answer.stdout.split())


def test_manifests_are_exported_merged_and_compared(tmp_path, location):
    answer = run("export", "nemo", location, tmp_path / "nemo", "--split", "train", "--split", "test", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["utterances"] == {"train": 3, "test": 1}
    answer = run("merge", tmp_path / "both", location, location, "--json")
    assert json.loads(answer.stdout)["repeated"] == 7
    assert Manifest(tmp_path / "both").count("train") == 3
    assert json.loads(run("diff", location, tmp_path / "both", "--json").stdout)["alike"] == 6


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    answer = run("stats", tmp_path / "none", "--json")
    assert answer.returncode == 2
    assert "none does not exist" in json.loads(answer.stdout)["error"]
