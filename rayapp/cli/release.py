"""`rayapp release`: register an evaluated model, and make it the champion if the gate says so."""

from __future__ import annotations

from rayapp.cli.options import AsJson, ConfigFile, Home, Overrides
from rayapp.cli.output import REFUSED, command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    config_file: ConfigFile, overrides: Overrides = None, home: Home = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Register an evaluated model; it becomes `champion`, the one that is served, if it passes the gate.

    Exits with 3 when the gate refuses; the model is registered all the same, so that its figures are kept.

    Example: `rayapp release configs/release.yaml --set gate.max_general_wer_rise=0.01`
    """
    with command_output(as_json) as output:
        import dataclasses

        import typer

        from pipelines.release.config import ReleaseConfig
        from rayapp.config import load_config

        config = load_config(ReleaseConfig, config_file, overrides or [])

        from pipelines.release.release import release
        from rayapp.cli.tables import verdict_lines

        version, verdicts = release(config, home)
        passed = all(verdict.passed for verdict in verdicts)
        values = {
            "model": config.model_name,
            "version": version,
            "released": passed,
            "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        }

        outcome = "the champion" if passed else "not released"
        output.result(values, *verdict_lines(verdicts), f"{config.model_name} version {version} is {outcome}")
        if not passed:
            raise typer.Exit(REFUSED)
