"""`rayapp tune-batch`: how much audio fits into a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from rayapp.cli.options import Address, AsJson, ConfigFile, Home, Overrides
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.training.tune import Tuned


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            "--memory-gb",
            min=0.1,
            help="What a worker may take; without it, its GPU, or its share of what this machine has free.",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Find the largest batches that `rayapp train CONFIG` can use, and print the settings for them.

    Steps of the real training are tried in one worker with ever larger batches of utterances of one length, for
    several lengths that the manifests have. Nothing is written.

    Example: `rayapp tune-batch configs/train-parakeet.yaml`
    """
    with command_output(as_json) as output:
        from pipelines.config import TrainConfig
        from rayapp.config import load_config

        config = load_config(TrainConfig, config_file, overrides or [])

        from pipelines.training.tune import tune_batch
        from rayapp.ray_session import ray_session

        with output.step("tune", "trying batches"), ray_session(address):
            tuned = tune_batch(config, home, memory_gb)
        output.result(tuned.as_json(), *_shown(tuned))


def _shown(tuned: Tuned) -> Iterator[RenderableType]:
    from rich.table import Table

    table = Table(title=f"Largest batches in {tuned.memory_bytes / 1e9:.1f} GB ({tuned.device})", title_justify="left")
    for name in ("seconds", "labels", "utterances", "seconds in all"):
        table.add_column(name, justify="right")
    for bucket in tuned.buckets:
        table.add_row(
            f"{bucket.seconds:g}",
            str(bucket.labels),
            str(bucket.utterances),
            f"{bucket.utterances * bucket.seconds:.0f}",
        )
    yield table
    yield "input:"
    yield f"  batch_seconds: {tuned.limits.batch_seconds:g}"
    if tuned.limits.quadratic_seconds:
        yield f"  quadratic_seconds: {tuned.limits.quadratic_seconds:g}"
