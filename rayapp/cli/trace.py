"""`rayapp trace`: where something came from, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayapp.cli.options import AsJson, Home
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME

if TYPE_CHECKING:
    from rayapp.lineage import Trace


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A term; the ID of an utterance, transcript or slot; a run's folder or key; a model as `name`, "
            "`name:version` or `name@alias`.",
            show_default=False,
        ),
    ],
    roots: Annotated[
        list[str] | None,
        typer.Option(
            "--in", metavar="FOLDER", help="Where to look, also on S3; may be repeated.", show_default="runs, the cache"
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Follow a term, transcript, utterance, run or served model to where it came from, and to what came of it.

    A row that was rejected is found, too, with its reason.

    Example: `rayapp trace losartan --in s3://bucket/runs --in runs`
    """
    with command_output(as_json) as output:
        import dataclasses
        import os

        from rayapp.errors import UserError
        from rayapp.lineage import Lineage
        from rayapp.ray_session import cache_folder
        from rayapp.registry import Registry

        looked_in = roots or [str(root) for root in (Path("runs"), cache_folder()) if root.exists()]
        has_registry = home.exists() or "MLFLOW_TRACKING_URI" in os.environ
        traces = Lineage(looked_in, Registry(home) if has_registry else None).trace(name)
        if not traces:
            places = [*looked_in, *([f"the registry in {home}"] if has_registry else [])]
            raise UserError(
                f"nothing goes by {name!r} in {' or '.join(places) or 'runs or the cache, which are not there'}; "
                "--in names other folders to look in, --home another registry"
            )
        lines = [line for trace in traces for line in _lines(trace)]
        output.result({"traces": [dataclasses.asdict(trace) for trace in traces]}, *lines)


def _lines(trace: Trace) -> Iterator[str]:
    from rich.markup import escape

    yield f"[bold]{escape(trace.what)}[/]"
    for name, value in trace.facts.items():
        if value not in (None, "", [], {}):
            yield escape(f"  {name}: {_shown(value)}")
    for line in trace.came_from:
        yield escape(f"  made from  {line}")
    for line in trace.went_into or ["nothing yet"]:
        yield escape(f"  went into  {line}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({count})" for name, count in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
