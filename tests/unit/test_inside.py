"""The switch for places whose data must not leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config import SynthesisConfig, TrainConfig
from rayapp.cli.entrypoint import SETTINGS_OF, read_entrypoint
from rayapp.errors import UserError
from rayapp.inside import require_inside
from rayapp.storage import open_filesystem
from serve.app import app as application
from serve.config import ServeConfig

INSIDE = {"RAYAPP_INSIDE_ONLY": "*.hospital.internal, mlflow", "HF_HUB_OFFLINE": "1"}
TRAINING = {"sources": [{"manifest": "/fsx/speech"}], "model": {"recipe": "fastconformer_tdt_small"}}


def synthesis(base_url):
    return SynthesisConfig.model_validate({"transcripts": {"generator": "openai", "openai": {"base_url": base_url}}})


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        (TrainConfig(**TRAINING, tracking={"wandb_project": "drugs"}), {}, r"tracking\.wandb_project is outside"),
        (synthesis("https://api.openai.com/v1"), {}, r"openai\.base_url is outside \(api\.openai\.com\)"),
        (synthesis("https://hospital.internal.evil.com/v1"), {}, "is outside"),
        (
            ServeConfig(),
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://cloud.langfuse.com"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        (ServeConfig(), {"MLFLOW_TRACKING_URI": "https://mlflow.example.com"}, "MLFLOW_TRACKING_URI is outside"),
        (ServeConfig(), {"HF_HUB_OFFLINE": "0"}, r"the hub of models is outside \(huggingface\.co\)"),
        (SynthesisConfig(output="s3://speech/made"), {}, r"output is outside \(s3\.amazonaws\.com\)"),
        (SynthesisConfig(output="S3://speech/made?endpoint_override=evil.com"), {}, r"output is outside \(evil\.com\)"),
        (SynthesisConfig(output="gs://mlflow/made"), {}, r"output is outside \(storage\.googleapis\.com\)"),
        (synthesis("HTTPS://api.OpenAI.com/v1"), {}, r"is outside \(api\.openai\.com\)"),
        (ServeConfig(), {"MLFLOW_REGISTRY_URI": "https://mlflow.example.com"}, "MLFLOW_REGISTRY_URI is outside"),
    ],
)
def test_who_is_outside_is_refused(settings, environment, message):
    with pytest.raises(UserError, match=message):
        require_inside(settings, INSIDE | environment)
    require_inside(settings, {**environment, "RAYAPP_INSIDE_ONLY": ""})  # without the switch, all is well


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        (TrainConfig(**TRAINING, tracking={"wandb_project": "drugs"}), {"WANDB_MODE": "offline"}),
        (
            TrainConfig(**TRAINING, tracking={"wandb_project": "drugs"}),
            {"WANDB_BASE_URL": "https://w.hospital.internal"},
        ),
        (synthesis("https://llm.hospital.internal/v1"), {}),
        (synthesis("http://localhost:8000/v1"), {}),
        (ServeConfig(), {"HF_HUB_OFFLINE": "", "HF_ENDPOINT": "https://hub.hospital.internal"}),
        (ServeConfig(), {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}),
        (ServeConfig(), {"MLFLOW_TRACKING_URI": "sqlite:////fsx/mlflow.db"}),
        (SynthesisConfig(output="s3://speech/made"), {"AWS_ENDPOINT_URL": "https://s3.hospital.internal"}),
    ],
)
def test_who_is_inside_is_let_be(settings, environment):
    require_inside(settings, INSIDE | environment)


CONFIGS = Path(__file__).parents[2] / "configs"
FILE_OF = {"audition": "synthesize", "plan": "synthesize", "tune-batch": "train"}


@pytest.mark.parametrize("command", SETTINGS_OF)
def test_every_command_with_settings_asks(command):
    words = [command, str(CONFIGS / f"{FILE_OF.get(command, command)}.yaml")]
    read_entrypoint(words, INSIDE)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI is outside"):
        read_entrypoint(words, INSIDE | {"MLFLOW_TRACKING_URI": "https://mlflow.example.com"})


@pytest.mark.parametrize("words", [["models"], ["trace", "losartan"], ["transcribe", "a.wav"]])
def test_a_command_without_settings_asks(words):
    environment = os.environ | INSIDE | {"MLFLOW_TRACKING_URI": "https://mlflow.example.com"}
    command = [sys.executable, "-m", "rayapp.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "MLFLOW_TRACKING_URI is outside (mlflow.example.com)" in done.stderr


def test_an_application_of_serve_asks(monkeypatch):
    for name, value in (INSIDE | {"LANGFUSE_HOST": "https://cloud.langfuse.com"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="LANGFUSE_HOST is outside"):
        application({})


def test_storage_asks_whoever_names_it(monkeypatch):
    monkeypatch.setenv("RAYAPP_INSIDE_ONLY", "*.hospital.internal")
    with pytest.raises(UserError, match=r"s3://speech/made is outside \(s3\.amazonaws\.com\).*set AWS_ENDPOINT_URL"):
        open_filesystem("s3://speech/made")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.hospital.internal")
    open_filesystem("s3://speech/made")
    open_filesystem("/fsx/speech")
