"""`rayapp cluster`: clusters to try things on, and the manifests of real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import AsJson
from rayapp.cli.output import BAD_INPUT, command_output

app = typer.Typer(no_args_is_help=True, help="A cluster to try things on, and the manifests of real ones.")


@app.command("local")
def local_command(
    nodes: Annotated[int, typer.Option(min=1, help="Raylets; the first is the head.")] = 3,
    cpus: Annotated[int, typer.Option(min=0, help="Of each node, as Ray is to count them.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="Of each node; the machine need not have them.")] = 0,
    gpu_type: Annotated[str | None, typer.Option(help="Of these GPUs, as Ray calls it: A100, L40S.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a cluster of several nodes on this machine, until Ctrl-C.

    Jobs are scheduled as on as many machines, and node by node can be killed.

    Example: `rayapp cluster local --nodes 3`, then `rayapp submit -- quickstart --set workdir=/tmp/quickstart`
    """
    with command_output(as_json) as output:
        import contextlib
        import os
        import signal

        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

        from cluster.local import NodeShape, local_cluster

        for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nodes, which are sessions of their own, would stay
            signal.signal(ending, signal.default_int_handler)
        with local_cluster(nodes, NodeShape(cpus, gpus, gpu_type)) as started:
            told = {
                "address": started.url,
                "profile": str(started.profile),
                "ray_address": started.address,
                "prometheus": str(started.prometheus_targets),
                "nodes": nodes,
            }
            lines = (
                f"{nodes} nodes; dashboard {started.url}; Ctrl-C stops them",
                f"rayapp submit --cluster {started.profile} -- COMMAND… runs a job on them",
                f"RAY_ADDRESS={started.address} runs a command on them; Prometheus: {started.prometheus_targets}",
            )
            output.result(told, *lines)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            output.console.print("stopping")


@app.command("validate")
def validate_command(
    overlay: Annotated[
        str | None, typer.Argument(help="Its name or folder; without it, all.", show_default=False)
    ] = None,
    crds: Annotated[
        Path | None,
        typer.Option(
            envvar="RAYAPP_CRDS",
            exists=True,
            file_okay=False,
            help="Folder of the operators' CustomResourceDefinitions; without it, their kinds are checked in part.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check manifests before a cluster sees them.

    Against schemas and KubeRay's rules; what jobs and applications are told; whether all that is named is there, and
    lets the pods in; pod security, queues, and nodes that hold them.

    Example: `rayapp cluster validate eks-prod --crds crds/`
    """
    with command_output(as_json) as output:
        from rich.markup import escape

        from cluster.validation.manifests import open_overlay, overlay_names
        from cluster.validation.schemas import open_schemas
        from cluster.validation.validate import validate
        from rayapp.cli.manifests import READERS

        told, bad, schemas = {}, 0, open_schemas(crds)
        for name in [overlay] if overlay else overlay_names():
            verdict = validate(open_overlay(name), schemas, READERS)
            bad += len(verdict.problems)
            for problem in verdict.problems:
                output.console.print(f"[red]✗[/red] {escape(str(problem))}", soft_wrap=True)
            for what, count in verdict.not_checked.items():
                output.console.print(f"[yellow]not checked[/yellow] {escape(what)} ({count})", soft_wrap=True)
            mark = "[red]✗[/red]" if verdict.problems else "[green]✓[/green]"
            output.console.print(f"{mark} {name}: {verdict.objects} objects, {len(verdict.problems)} problems")
            told[name] = {
                "objects": verdict.objects,
                "problems": [{"where": problem.where, "what": problem.what} for problem in verdict.problems],
                "not_checked": dict(verdict.not_checked),
            }
        output.result(told)
        if bad:
            raise typer.Exit(BAD_INPUT)


@app.command("secrets")
def secrets_command() -> None:
    """Print the Secrets that the manifests name, with passwords drawn now.

    HF_TOKEN, OBJECT_STORE_ACCESS_KEY_ID and OBJECT_STORE_SECRET_ACCESS_KEY go into them where they are set. Never apply
    them twice: what is there would be locked out of its own database.

    Example: `rayapp cluster secrets | kubectl create -f -`
    """
    import os
    import sys

    import yaml

    from cluster.secrets import draw, left_out

    for name, variables in left_out(os.environ).items():
        print(f"left out: {name}, for want of {' and '.join(variables)}", file=sys.stderr)  # noqa: T201
    yaml.safe_dump_all(draw(os.environ), sys.stdout, sort_keys=False)
