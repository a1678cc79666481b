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
    """Train a recogniser on manifests, in Ray Train with DeepSpeed.

    Starts from a recipe (a new model) or from an earlier `.nemo`; the model with the lowest word error
    rate on the validation split is kept as `model.nemo`.

    Example: `rayapp train configs/train.yaml --set learning_rate=1e-3 --set workers=2`
    """
    with command_output(as_json) as output:
        from pipelines.training.config import TrainingConfig
        from rayapp.config import load_config

        config = load_config(TrainingConfig, config_file, overrides or [])

        from pipelines.training.train import MODEL_FILE, train
        from rayapp.ray_session import ray_session

        with output.step("train", f"training {config.output}") as progress, ray_session(address):
            figures = train(config, home, progress)
        values = {
            "model": str((config.output / MODEL_FILE).absolute()),
            **figures,
            "seconds_by_step": output.seconds_by_step,
        }
        output.result(values, *(f"{key}: {value}" for key, value in values.items()))
