"""A real Prometheus scrapes a cluster that makes speech and trains: what dashboards and alerts ask for is there."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]
PATIENCE_SECONDS = 400
NOT_HERE = {
    "DCGM_": "dcgm-exporter tells it, where there are GPUs",
    "kube_": "kube-state-metrics tells it, of Kubernetes",
    "rayapp:gpu_busy:percent30m": "is recorded from what dcgm-exporter tells",
    "ray_rayapp_audio_seconds_total": "a server tells it: see test_serving_observed.py",
}
"""Beginnings of names, and why they are not looked for."""
UNANSWERED = (*NOT_HERE, 'Name="GPU"')
"""In expressions that find nothing here, though the metric is there."""
# Rates need two scrapes of what has begun to count: what is made in a moment has none.
SPEECH = {
    "output": "speech",
    "lexicon": {"take": 4, "held_out": 0},
    "manifests": {
        "sizes": {"train_per_term": 60, "train_everyday": 60, "validation": 4, "test": 0, "test_unseen_patterns": 0}
        | {"test_unseen_terms": 0, "test_other_synthesiser": 0, "test_general": 0},
        "max_rejected_share": 1,
    },
    "transcripts": {"rounds": 1},
    "verification": {"enabled": True, "signal": {"max_words_per_second": 2.5}},  # some are faster
}
TRAINING = {
    "output": "model",
    "sources": [{"manifest": "speech"}],
    "validation": [{"manifest": "speech", "split": "validation"}],
    "validation_interval": 0.2,
    "model": {"recipe": "fastconformer_tdt_small", "vocabulary_size": 64},
    "input": {"batch_seconds": 12},
    "max_steps": 3,
    "workers": 1,
}


@pytest.fixture(scope="module")
def cluster():
    """Of two nodes: the environment of those who use it, and the file that tells whom to scrape."""
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-this-test",
        "RAY_metrics_report_interval_ms": "2000",
        # Ray forgets a gauge after two of these intervals: its nodes' own come each 5 s, and had gaps.
        "REPORTER_UPDATE_INTERVAL_MS": "1000",
    }
    command = [sys.executable, "-m", "rayapp.cli", "cluster", "local", "--nodes", "2", "--json"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    told = json.loads(started.stdout.readline())
    yield environment | {"RAY_ADDRESS": told["ray_address"]}, told["prometheus"]
    started.send_signal(signal.SIGINT)
    assert started.wait(PATIENCE_SECONDS) == 0


@pytest.fixture(scope="module")
def watching(cluster, prometheus):
    """What a Prometheus found while the cluster worked."""
    _, targets = cluster
    return prometheus(file_sd_configs=[{"files": [targets], "refresh_interval": "1s"}])


@pytest.fixture(scope="module")
def worked(cluster, watching, tmp_path_factory):
    folder, (environment, _) = tmp_path_factory.mktemp("work"), cluster
    for command, config in (("synthesize", SPEECH), ("train", TRAINING)):
        # Each node has a folder of its own to work in.
        text = json.dumps(config)
        for name in ("speech", "model"):
            text = text.replace(f': "{name}"', f': "{folder}/{name}"')
        (folder / f"{command}.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "rayapp.cli", command, f"{command}.yaml"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return watching


@pytest.mark.parametrize("name", ["data", "train", "cost", "data-alerts", "train-alerts", "cluster-alerts"])
def test_what_is_asked_for_is_told(worked, monitoring, metric_names, name):
    asked = {metric for expression in monitoring.expressions(name) for metric in metric_names(expression)}
    here = {metric for metric in asked if not metric.startswith(tuple(NOT_HERE))}
    assert here
    assert worked.missing(here) == set()


def test_rules_are_evaluated(worked):
    told = {rule["name"]: rule["health"] for group in worked.get("rules")["groups"] for rule in group["rules"]}
    assert len(told) > 15
    assert set(told.values()) == {"ok"}, told


@pytest.mark.parametrize("name", ["data", "train", "cost"])
def test_every_panel_shows_something(worked, monitoring, name):
    expressions = [each for each in monitoring.expressions(name) if not any(word in each for word in UNANSWERED)]
    # Sums over minutes are taken at whole ones: the next is among them.
    times = {"start": str(worked.started), "end": str(time.time() + 60), "step": "1"}
    assert len(expressions) > 1
    found = {expression: worked.get("query_range", query=expression, **times)["result"] for expression in expressions}
    assert [expression for expression, series in found.items() if not series] == []


def test_prometheus_answers_all_that_is_asked(worked, monitoring):
    for expression in monitoring.expressions():
        worked.get("query", query=expression)
