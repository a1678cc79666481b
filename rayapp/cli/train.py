"""`rayapp train`: from manifests to a model."""

from __future__ import annotations

from rayapp.cli.options import Address, AsJson, ConfigFile, Home, Overrides
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    address: Address = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Train a recogniser on manifests, in Ray Train with DeepSpeed or DDP.

    Starts from a recipe (a new model) or from an earlier one: Parakeet and others of NeMo's, or Whisper, by path,
    registry or hub name. The model with the lowest word error rate on the validation manifests is kept. The same
    command goes on where a run was interrupted.

    Example: `rayapp train configs/train.yaml --set learning_rate=1e-3 --set workers=2`
    """
    with command_output(as_json) as output:
        from pipelines.config import TrainConfig
        from rayapp.config import load_config

        config = load_config(TrainConfig, config_file, overrides or [])

        from pipelines.train import train
        from rayapp.asr.resolve import trained_model
        from rayapp.ray_session import ray_session

        with output.step("train", f"training {config.output}") as progress, ray_session(address):
            figures = train(config, home, progress)
        values = {
            "model": str(trained_model(config.output).absolute()),
            **figures,
            "seconds_by_step": output.seconds_by_step,
        }
        output.result(values, *(f"{key}: {value}" for key, value in values.items()))
