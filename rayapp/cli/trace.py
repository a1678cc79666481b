"""`rayapp trace`: where something came from, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import DEFAULT_HOME, AsJson, Home
from rayapp.cli.output import command_output


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="ID of an utterance, transcript or slot; a term; a folder; a model as `name:version` or `name@alias`.",
            show_default=False,
        ),
    ],
    roots: Annotated[
        list[Path] | None,
        typer.Option("--in", metavar="FOLDER", help="Where to look; may be repeated.", show_default="runs, the cache"),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Follow a term, transcript, utterance, run or served model to where it came from, and to what came of it.

    Example: `rayapp trace losartan`
    """
    with command_output(as_json) as output:
        import dataclasses

        from rich.markup import escape

        from rayapp.errors import UserError
        from rayapp.lineage import Lineage
        from rayapp.ray_session import cache_folder
        from rayapp.registry import Registry

        looked_in = roots or [Path("runs"), cache_folder()]
        registry = Registry(home) if home.exists() else None
        traces = Lineage(looked_in, registry).trace(name)
        if not traces:
            places = ", ".join(map(str, looked_in))
            raise UserError(f"nothing in {places} goes by {name!r}; --in names other folders to look in")
        lines = []
        for trace in traces:
            lines.append(f"[bold]{escape(trace.what)}[/]")
            lines += [
                f"  {key}: {escape(str(value))}" for key, value in trace.facts.items() if value not in (None, "", [])
            ]
            lines += [f"  made from  {line}" for line in trace.came_from]
            lines += [f"  went into  {line}" for line in trace.went_into]
        output.result({"traces": [dataclasses.asdict(trace) for trace in traces]}, *lines)
