"""`rayapp models`: what is registered, and which public models can be named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import AsJson, Home
from rayapp.cli.output import Output, command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    history: Annotated[
        str | None,
        typer.Option("--history", metavar="NAME", help="Show who promoted, refused or rolled back what, when and why."),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """List the models of the registry, with alias and figures, and the public ones that can be named.

    Example: `rayapp models --history medical-asr`
    """
    with command_output(as_json) as output:
        if history:
            _show_history(history, home, output)
            return
        import dataclasses

        from rich.table import Table

        from rayapp.asr.catalogue import CATALOGUE
        from rayapp.registry import Registry

        registered = Registry(home).list()

        table = Table(title=f"Registered in {home}", title_justify="left")
        for name in ("model", "version", "alias", "test WER", "terms heard", "general WER"):
            table.add_column(name)
        for model in registered:
            keys = ("test.wer", "test.term_recall", "test_general.wer")
            shown = [f"{100 * model.figures[key]:.1f} %" if key in model.figures else "–" for key in keys]
            table.add_row(model.name, model.version, ", ".join(model.aliases), *shown)
        public = Table(title="Public models", title_justify="left")
        for name in ("name", "languages", "million parameters", "GPU memory to serve", "note"):
            public.add_column(name)
        for entry in CATALOGUE:
            row = (entry.name, entry.languages, str(entry.parameters_millions), f"{entry.gpu_memory_gb} GB", entry.note)
            public.add_row(*row)
        values = {
            "registered": [dataclasses.asdict(model) for model in registered],
            "public": [dataclasses.asdict(entry) for entry in CATALOGUE],
        }
        nothing = f"nothing is registered in {home} yet; `rayapp quickstart` makes a first model"
        output.result(values, table if registered else nothing, public)


def _show_history(name: str, home: Path, output: Output) -> None:
    import dataclasses

    from rich.table import Table

    from rayapp.registry import Registry

    events = Registry(home).history(name)
    table = Table(title=f"What was decided on {name}", title_justify="left")
    for column in ("when (UTC)", "who", "what", "version", "champion since", "why"):
        table.add_column(column)
    for event in events:
        table.add_row(event.when[:19], event.who, event.action, event.version, event.champion or "–", event.why)
    nothing = f"nothing was decided on {name} yet"
    output.result({"history": [dataclasses.asdict(event) for event in events]}, table if events else nothing)
