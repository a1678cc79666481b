"""`rayapp plan`: what a run will make and cost, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from rayapp.cli.options import AsJson, ConfigFile, Overrides
from rayapp.cli.output import Output, command_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.config import SynthesisConfig
    from pipelines.estimate import Estimate, Rates


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
    scale: Annotated[
        Path | None,
        typer.Option(
            "--scale",
            metavar="FILE",
            help="Simulate the run on the cluster that this YAML file describes; `configs/scale.yaml` is one.",
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="Hours of audio to make there, instead of those in the file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what `rayapp synthesize CONFIG` will make and cost: utterances, hours, bytes, CPU-hours, GPU-hours, price.

    A few utterances are made to measure the rates; nothing is written.

    With `--scale`, tell instead how long so many hours of it would take on a cluster, how busy each group of stages
    would be, which one holds the others up, and what it would cost.

    Example: `rayapp plan configs/synthesize.yaml --set prices.cpu_hour=0.05 --set prices.gpu_hour=2`
    """
    with command_output(as_json) as output:
        import dataclasses

        from pipelines.capacity.config import ScaleConfig
        from pipelines.config import SynthesisConfig
        from rayapp.config import load_config
        from rayapp.errors import UserError

        config = load_config(SynthesisConfig, config_file, overrides or [])
        if hours is not None and not scale:
            raise UserError(f"--hours {hours:g} goes with --scale FILE: without it, manifests.sizes say how much")
        if scale:
            cluster = load_config(ScaleConfig, scale, [] if hours is None else [f"hours={hours}"])
            from pipelines.scale import forecast
            from rayapp.cli.scale_tables import shown

            known = _rates(config, rates, measure, output)
            with output.step("simulate", f"simulating {cluster.hours:,.10g} h"):
                foreseen = forecast(config, known, cluster)
            output.result(foreseen.as_json(), *shown(foreseen))
            return
        from pipelines.estimate import estimate
        from pipelines.synthesize import prepared

        config, planner = prepared(config)
        told = estimate(config, planner, _rates(config, rates, measure, output))
        output.result(dataclasses.asdict(told), *_shown(told))


def _rates(config: SynthesisConfig, manifest: str | None, measure: int, output: Output) -> Rates:
    """From an earlier run's manifest, or measured here."""
    from pipelines.estimate import measure_rates, rates_of_run
    from pipelines.synthesize import prepared

    with output.step("measure", "reading rates" if manifest else f"making {measure} utterances to measure"):
        return rates_of_run(manifest) if manifest else measure_rates(*prepared(config), measure)


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
