import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RAYAPP = [sys.executable, "-m", "rayapp.cli"]


def run(*arguments, **environment):
    return subprocess.run(
        [*RAYAPP, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"COLUMNS": "120"} | environment,
    )


def test_help_is_quick_because_nothing_heavy_is_imported():
    program = (
        "import sys; sys.argv = ['rayapp', '--help']\n"
        "from rayapp.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'nemo', 'mlflow', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


COMMANDS = ["quickstart", "synthesize", "train", "evaluate", "release", "serve", "transcribe", "models", "doctor"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command):
    answer = run(command, "--help")
    assert answer.returncode == 0
    assert "--json" in answer.stdout
    assert len(answer.stdout) > 400


def test_the_main_help_lists_every_command():
    text = run("--help").stdout
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "--set", "lexicon.path=none.csv"], "none.csv does not exist"),
        (["quickstart", "--set", "trainin.epochs=1"], "unknown key trainin"),
        (["quickstart", "--set", "training.epochs=x"], "training.epochs = 'x'"),
        (["quickstart", "--workdir", "/proc/nowhere"], "/proc/nowhere cannot be written"),
        (["quickstart", "none.yaml"], "none.yaml does not exist"),
        (["synthesize", "none.yaml"], "none.yaml does not exist"),
        (["transcribe", "none.wav"], "none.wav does not exist"),
        (["serve", "--set", "models=[{name: a, source: x.nemo}]"], "past the gate; set allow_unreleased: true"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_nothing_behind(tmp_path, arguments, message):
    answer = subprocess.run(
        [*RAYAPP, *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert answer.returncode == 2, answer.stderr
    assert message in " ".join(answer.stderr.split())
    error = json.loads(answer.stdout)
    assert error["exit_code"] == 2
    assert message in error["error"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_audio_is_named(tmp_path):
    (tmp_path / "note.wav").write_text("this is not audio")
    answer = run("transcribe", tmp_path / "note.wav", "--json")
    assert answer.returncode == 2
    assert "note.wav is not audio that can be read" in json.loads(answer.stdout)["error"]


def test_a_port_in_use_is_said_before_anything_is_made(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = run("quickstart", "--workdir", tmp_path / "w", "--set", f"serving.port={port}", "--json")
    assert answer.returncode == 2
    assert f"port {port} on 127.0.0.1 cannot be used" in json.loads(answer.stdout)["error"]


def test_models_lists_what_can_be_named_even_with_an_empty_registry(tmp_path):
    answer = run("models", "--home", tmp_path / "tracking", "--json")
    assert answer.returncode == 0, answer.stderr
    values = json.loads(answer.stdout)
    assert values["registered"] == []
    assert "nvidia/parakeet-tdt-0.6b-v2" in {entry["name"] for entry in values["public"]}


def test_doctor_says_what_works_here():
    answer = run("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(answer.stdout)["findings"]}
    assert findings["Python"]["status"] == "ok"
    assert findings["espeak-ng"]["status"] == "ok"
    assert all(finding["advice"] for finding in findings.values() if finding["status"] != "ok")
    assert answer.returncode == (1 if any(f["status"] == "bad" for f in findings.values()) else 0)


def test_a_log_gets_a_line_at_each_quarter_of_a_step(capsys):
    from rayapp.cli.output import Output

    with Output(as_json=False).step("speech", "speaking") as progress:
        for done in range(0, 101, 10):
            progress(done, 100)
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines[:-1] == ["… speaking", "30 of 100", "50 of 100", "80 of 100"]
    assert lines[-1].startswith("✓ speaking")
