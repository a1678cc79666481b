"""`rayapp adapt`: rounds of evaluation, synthesis and training, each planned by the errors of the one before."""

from __future__ import annotations

from rayapp.cli.options import Address, AsJson, ConfigFile, Home, Overrides
from rayapp.cli.output import REFUSED, command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    address: Address = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Adapt a recogniser in rounds: what it gets wrong decides what it is taught next.

    Each round gives the terms that were missed more sentences, and those that are heard fewer; terms that are mistaken
    for one another are said together. It ends after `rounds`, or when `target_term_recall` is reached. Exits with 3
    when the gate refuses the last round. The same command goes on where a run was interrupted.

    Example: `rayapp adapt configs/adapt.yaml --set rounds=3`
    """
    with command_output(as_json) as output:
        import typer

        from pipelines.config import AdaptConfig
        from rayapp.config import load_config

        config = load_config(AdaptConfig, config_file, overrides or [])

        import dataclasses

        from pipelines.adapt import adapt
        from rayapp.cli.tables import figures_table, release_lines
        from rayapp.ray_session import ray_session

        with ray_session(address):
            rounds = adapt(config, home, output)
        values = {
            "rounds": [
                {
                    "number": made.number,
                    "model": str(made.model.absolute()),
                    "released": made.released,
                    **dataclasses.asdict(made.release),
                    "report": str(made.report.absolute()),
                    "figures": made.figures,
                }
                for made in rounds
            ],
            "seconds_by_step": output.seconds_by_step,
        }
        last = rounds[-1]
        lines = [f"report of round {made.number}: {made.report.absolute()}" for made in rounds]
        output.result(values, figures_table(last.figures), *release_lines(config.model_name, last.release), *lines)
        if not last.released:
            raise typer.Exit(REFUSED)
