"""`rayapp cluster`: clusters to try things on."""

from __future__ import annotations

from typing import Annotated

import typer

from rayapp.cli.options import AsJson
from rayapp.cli.output import command_output

app = typer.Typer(no_args_is_help=True, help="A cluster to try things on.")


@app.callback()
def group() -> None:
    """So that the group's one command keeps its name."""


@app.command("local")
def local_command(
    nodes: Annotated[int, typer.Option(min=1, help="Raylets; the first is the head.")] = 3,
    cpus: Annotated[float, typer.Option(min=0, help="Of each node, as Ray is to count them.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="Of each node; the machine need not have them.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a cluster of several nodes on this machine, until Ctrl-C.

    Jobs are scheduled as on as many machines, and node by node can be killed.

    Example: `rayapp cluster local --nodes 3`, then `rayapp submit -- quickstart`
    """
    with command_output(as_json) as output:
        import contextlib
        import os
        import signal

        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

        from cluster.local import local_cluster

        with local_cluster(nodes, cpus, gpus) as url:
            output.result({"address": url, "nodes": nodes}, f"{nodes} nodes; dashboard {url}; Ctrl-C stops them")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            output.console.print("stopping")
