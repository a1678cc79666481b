"""Jobs that are submitted from another process, over HTTP, to a cluster with a dashboard."""

import json
import os
import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]
PATIENCE_SECONDS = 120
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-this-test"}


@pytest.fixture(scope="module")
def local():
    """A cluster that asks for a token; `python` is ours in its jobs, though nobody has activated our environment."""
    environment = os.environ | TOKEN | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = [sys.executable, "-m", "rayapp.cli", "cluster", "local", "--nodes", "2", "--json"]
    command += ["--gpus", "1", "--gpu-type", "A100"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    yield json.loads(started.stdout.readline())
    started.send_signal(signal.SIGINT)
    assert started.wait(PATIENCE_SECONDS) == 0


@pytest.fixture
def rayapp(local, tmp_path):
    """Runs a command in a folder, on the cluster; returns its exit code, what it printed, and told."""

    def run(*words, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "rayapp.cli", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env=os.environ | {"RAYAPP_CLUSTER": local["profile"]} | TOKEN | environment,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_job_runs_once_is_followed_and_looked_up(rayapp, tmp_path):
    (tmp_path / "terms.csv").write_text("text,category\nlosartan,drug\n")

    code, out, told = rayapp("submit", "--json", "--", "lexicon", "stats", "terms.csv")
    job = json.loads(out)
    assert (code, job["status"], job["submitted"]) == (0, "SUCCEEDED", True)
    assert "by category" in told

    code, out, told = rayapp("submit", "--json", "--", "lexicon", "stats", "terms.csv")
    assert (code, json.loads(out)) == (0, {**job, "submitted": False})
    assert "has succeeded; --again" in told
    assert "by category" in rayapp("jobs", "logs", job["submission_id"])[1]
    listed = json.loads(rayapp("jobs", "list", "--json")[1])["jobs"]
    assert [(each["submission_id"], each["command"]) for each in listed] == [
        (job["submission_id"], "lexicon stats terms.csv")
    ]
    assert json.loads(rayapp("jobs", "stop", "--json", job["submission_id"])[1]) == {"stopped": False}


def test_a_job_that_fails_ends_the_command_as_it_ends_itself_and_is_submitted_anew(rayapp):
    for number in (1, 2):
        code, _, told = rayapp("submit", "--", "lexicon", "stats", "nowhere.csv")
        assert code == 2, told
        assert f"-{number}: FAILED" in told


@pytest.mark.parametrize(
    ("gpus", "gpu_type", "message"),
    [
        (1, "L40S", "gpus_per_worker: the cluster has no GPU of type L40S; it has A100"),
        (4, "A100", "gpus_per_worker: a process asks for 4 GPUs, and no node has more than 1"),
    ],
)
def test_gpus_that_the_cluster_has_not_are_said(rayapp, tmp_path, gpus, gpu_type, message):
    training = {"sources": [{"manifest": "s3://speech/made"}], "model": {"recipe": "fastconformer_tdt_small"}}
    (tmp_path / "train.yaml").write_text(json.dumps({**training, "gpus_per_worker": gpus, "gpu_type": gpu_type}))
    code, _, told = rayapp("submit", "--", "train", "train.yaml")
    assert (code, message in told.replace("\n", " ")) == (2, True), told


def test_a_token_that_is_wrong_is_said(rayapp):
    code, _, told = rayapp("jobs", "list", RAY_AUTH_TOKEN="another")
    assert (code, "export RAY_AUTH_TOKEN" in told) == (2, True)


def test_a_job_that_is_not_there_is_said(rayapp):
    code, _, told = rayapp("jobs", "status", "train-1")
    assert (code, "there is no job 'train-1'" in told) == (2, True)
