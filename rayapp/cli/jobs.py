"""`rayapp jobs`: what was submitted to a cluster."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rayapp.cli.options import AsJson, ClusterName
from rayapp.cli.output import FAULT, Output, command_output

if TYPE_CHECKING:
    from cluster.jobs import Cluster

app = typer.Typer(no_args_is_help=True, help="Jobs that were submitted to a cluster.")
JobName = Annotated[str, typer.Argument(metavar="JOB", help="As `submit` and `list` tell.", show_default=False)]


@app.command("list")
def list_command(cluster: ClusterName = "local", as_json: AsJson = False) -> None:
    """Show the jobs of a cluster, the latest first.

    Example: `rayapp jobs list --cluster prod`
    """
    with command_output(as_json) as output:
        jobs = _connected(cluster).jobs()
        shown = Table("job", "status", "since", "command")
        for job in jobs:
            shown.add_row(job.submission_id, str(job.status), _time(job.start_time), job.metadata["command"])
        output.result({"jobs": [_told(job) for job in jobs]}, shown if jobs else "no jobs")


@app.command("status")
def status_command(job: JobName, cluster: ClusterName = "local", as_json: AsJson = False) -> None:
    """Show how a job is.

    Example: `rayapp jobs status train-0f3a1b2c4d5e6f70-1`
    """
    with command_output(as_json) as output:
        told = _told(_connected(cluster).details(job))
        output.result(told, *(f"{name}: {value}" for name, value in told.items() if value))


@app.command("logs")
def logs_command(
    job: JobName,
    cluster: ClusterName = "local",
    wait: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends, and end as it does.")] = False,
) -> None:
    """Show what a job has printed.

    Example: `rayapp jobs logs -f train-0f3a1b2c4d5e6f70-1`
    """
    with command_output(as_json=False) as output:
        connected = _connected(cluster)
        if wait:
            follow(connected, job, output)
        else:
            sys.stdout.write(connected.logs(job))


@app.command("stop")
def stop_command(job: JobName, cluster: ClusterName = "local", as_json: AsJson = False) -> None:
    """Have a job end as with Ctrl-C. Submitted again, it goes on where it was.

    Example: `rayapp jobs stop train-0f3a1b2c4d5e6f70-1`
    """
    with command_output(as_json) as output:
        stopped = _connected(cluster).stop(job)
        output.result({"stopped": stopped}, f"{job} is stopped" if stopped else f"{job} had ended")


def follow(cluster: Cluster, job: str, output: Output) -> None:
    """Print what a job prints, until it ends. With Ctrl-C it goes on alone; one that failed ends this command, too."""

    async def lines() -> None:
        async for text in cluster.follow(job):
            output.console.out(text, end="", highlight=False)

    try:
        asyncio.run(lines())
    except KeyboardInterrupt:
        output.console.print(
            f"\n{job} goes on; `rayapp jobs logs -f {job}` follows it, `rayapp jobs stop {job}` ends it"
        )
        raise typer.Exit from None
    told = cluster.details(job)
    if str(told.status) != "SUCCEEDED":
        output.error(f"{job}: {told.status}: {told.message}", told.driver_exit_code or FAULT)
        raise typer.Exit(told.driver_exit_code or FAULT)


def _connected(name: str) -> Cluster:
    from cluster.jobs import Cluster
    from cluster.profile import open_profile

    return Cluster(open_profile(name))


def _told(job: Any) -> dict[str, Any]:
    return {
        "submission_id": job.submission_id,
        "status": str(job.status),
        "command": (job.metadata or {}).get("command", job.entrypoint),
        "message": job.message,
        "started": _time(job.start_time),
        "ended": _time(job.end_time),
    }


def _time(milliseconds: int | None) -> str:
    return "" if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
