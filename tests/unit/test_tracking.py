"""A run is kept in each tool that is asked for, through the tool itself."""

import csv
import subprocess
import sys
from functools import partial

import pytest

from rayapp.tracking import open_client, tracked_run
from rayapp.tracking.other_runs import CsvRun, TensorBoardRun, WandbRun

ENTRIES = [{"step": 1, "loss": 2.0, "learning_rate": 1e-3}, {"step": 2, "loss": 1.5}]


def write_run(home, others=()):
    with tracked_run(home, "small", others) as run:
        run.log_params({"training": {"epochs": 3, "model": {"recipe": "small"}}})
        run.log_metrics(ENTRIES)
        run.log_text("samples.txt", "said: losartan\nheard: <lasartan>")
    return run


def test_mlflow_keeps_settings_figures_and_texts(tmp_path):
    run = write_run(tmp_path / "home")
    client = open_client(tmp_path / "home")
    kept = client.get_run(run.mlflow.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"training.epochs": "3", "training.model.recipe": "small"}
    assert [metric.value for metric in client.get_metric_history(run.mlflow.run_id, "loss")] == [2.0, 1.5]
    assert [file.path for file in client.list_artifacts(run.mlflow.run_id)] == ["samples.txt"]


def test_processes_that_start_together_share_a_new_file(tmp_path):
    program = "import sys, pathlib; from rayapp.tracking import open_client; open_client(pathlib.Path(sys.argv[1]))"
    starts = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / "home"], stderr=subprocess.PIPE) for _ in range(3)
    ]
    assert [(start.communicate()[1], start.returncode) for start in starts] == [(b"", 0)] * 3


def test_names_that_mlflow_refuses_cost_no_run(tmp_path):
    with tracked_run(tmp_path, "small") as run:
        run.log_params({"model": {"unfrozen": {"*encoder.layers.*": 0.1}, "frozen": ["*pre_encode*"]}})
        run.log_metrics([{"step": 1, "validation_wer/speech?date=2024+1.test": 0.5}])
        run.mlflow.log_manifest("s3://speech/date=2024?endpoint_override=host:1", "0123456789abcdef", ["training"])
    kept = open_client(tmp_path).get_run(run.mlflow.run_id)
    assert kept.data.params["model.unfrozen"] == '{"*encoder.layers.*": 0.1}'
    assert kept.data.metrics == {"validation_wer/speech_date_2024_1.test": 0.5}
    assert kept.inputs.dataset_inputs[0].dataset.digest == "0123456789abcdef"


def test_a_run_that_fails_is_kept_as_failed_everywhere(tmp_path):
    with pytest.raises(ValueError, match="broken"), tracked_run(tmp_path, "small", [partial(CsvRun, tmp_path)]) as run:
        run.log_metrics(ENTRIES)
        raise ValueError("broken")
    assert open_client(tmp_path).get_run(run.mlflow.run_id).info.status == "FAILED"
    assert "1,loss,2.0" in (tmp_path / "metrics.csv").read_text()


def test_a_csv_file_goes_on_where_an_interrupted_run_left_it(tmp_path):
    for _ in range(2):
        write_run(tmp_path / "home", [partial(CsvRun, tmp_path)])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows if row["name"] == "loss"] == ["2.0", "1.5"] * 2


def test_tensorboard_reads_what_was_written_for_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_run(tmp_path / "home", [partial(TensorBoardRun, tmp_path / "events")])
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.5)]


def test_weights_and_biases_keeps_a_run_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_run(tmp_path / "home", [partial(WandbRun, "rayapp", "small", tmp_path)])
    (kept,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert kept.stat().st_size > 0
