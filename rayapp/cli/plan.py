"""`rayapp plan`: what a run will make and cost, before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from rayapp.cli.options import AsJson, ConfigFile, Overrides
from rayapp.cli.output import command_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.estimate import Estimate


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    rates: Annotated[
        str | None,
        typer.Option(
            "--rates",
            metavar="MANIFEST",
            help="Take the rates from what an earlier run left in its manifest, instead of measuring here.",
        ),
    ] = None,
    measure: Annotated[int, typer.Option(min=1, help="Utterances to make for measuring the rates.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Tell what `rayapp synthesize CONFIG` will make and cost: utterances, hours, bytes, CPU-hours, GPU-hours, price.

    A few utterances are made to measure the rates; nothing is written.

    Example: `rayapp plan configs/synthesize.yaml --set prices.cpu_hour=0.05 --set prices.gpu_hour=2`
    """
    with command_output(as_json) as output:
        import dataclasses

        from pipelines.config import SynthesisConfig
        from rayapp.config import load_config

        config = load_config(SynthesisConfig, config_file, overrides or [])
        from pipelines.estimate import estimate, measure_rates, rates_of_run
        from pipelines.synthesize import prepared

        config, planner = prepared(config)
        with output.step("measure", "reading rates" if rates else f"making {measure} utterances to measure"):
            known = rates_of_run(rates) if rates else measure_rates(config, planner, measure)
        told = estimate(config, planner, known)
        output.result(dataclasses.asdict(told), *_shown(told))


def _shown(told: Estimate) -> Iterator[RenderableType]:
    from rich.table import Table

    table = Table(title="What the first round makes", title_justify="left")
    for name, justify in (("split", "left"), ("style", "left"), ("utterances", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for split, styles in told.utterances.items():
        for style, count in styles.items():
            table.add_row(split, style, f"{count:,}")
    yield table
    yield (
        f"{told.slots:,} utterances, {told.slots_over_rounds:,} over all rounds: "
        f"{told.hours:.2f} h of speech kept, {told.gigabytes:.3f} GB"
    )
    yield (
        f"{told.cpu_hours:.2f} CPU-hours, {told.gpu_hours:.2f} GPU-hours, "
        f"{told.wall_hours * 60:.0f} minutes with the workers that are set"
    )
    yield f"price: {told.price:.3g}" if told.price is not None else "price: set prices.cpu_hour and prices.gpu_hour"
    for stage in told.not_measured:
        yield f"not measured, and comes on top: {stage}"
    yield f"rates: {told.rates.measured_on}"
