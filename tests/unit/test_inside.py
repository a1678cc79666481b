"""The switch for places whose data must not leave."""

import pytest

from pipelines.config import SynthesisConfig, TrainConfig
from rayapp.config import load_config
from rayapp.errors import UserError
from rayapp.inside import require_inside
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
        (SynthesisConfig(output="gs://speech/made"), {}, r"output is outside \(speech\)"),
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


def test_every_command_asks(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("output: s3://speech/made\n")
    assert load_config(SynthesisConfig, file, environment={}).output == "s3://speech/made"
    with pytest.raises(UserError, match="set AWS_ENDPOINT_URL to a store inside"):
        load_config(SynthesisConfig, file, environment=INSIDE)
