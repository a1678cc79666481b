"""`rayapp release`: register an evaluated model, and make it the champion if the gate says so."""

from __future__ import annotations

from typing import Annotated

import typer

from rayapp.cli.options import AsJson, ConfigFile, Home, Overrides
from rayapp.cli.output import REFUSED, command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Serve the champion before the present one again; nothing is released.")
    ] = False,
    why: Annotated[str, typer.Option("--why", help="Kept with the decision; `rayapp models --history` shows it.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Register an evaluated model; it becomes `champion`, the one that is served, if it passes the gate.

    Exits with 3 when the gate refuses; the model is registered all the same, as `challenger`, with its figures. Who
    decided what, when and why is kept in the registry.

    Example: `rayapp release configs/release.yaml --set gate.max_general_wer_rise=0.01`
    """
    with command_output(as_json) as output:
        import dataclasses

        from pipelines.release.config import ReleaseConfig
        from rayapp.config import load_config

        config = load_config(ReleaseConfig, config_file, overrides or [])

        if rollback:
            from rayapp.registry import Registry

            event = Registry(home).roll_back(config.model_name, why)
            line = f"{config.model_name} version {event.champion} is the champion again, instead of {event.version}"
            output.result({"model": config.model_name, **dataclasses.asdict(event)}, line)
            return

        from pipelines.release.release import release
        from rayapp.cli.tables import release_lines

        decided = release(config, home, why)
        values = {"model": config.model_name, "released": decided.champion, **dataclasses.asdict(decided)}
        output.result(values, *release_lines(config.model_name, decided))
        if not decided.passed:
            raise typer.Exit(REFUSED)
