"""`rayapp submit`: a command of ours on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import AsJson, ClusterName
from rayapp.cli.output import command_output


def command(
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", help="As after `rayapp`.", show_default=False)],
    cluster: ClusterName = "local",
    wait: Annotated[bool, typer.Option(help="Follow the job to its end, and end as it does.")] = True,
    again: Annotated[bool, typer.Option("--again", help="Also where the same job has succeeded.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a command on a Ray cluster, with this folder as its working directory. Needs only the light install.

    The same command with the same settings is the same job: where it runs it is followed, where it has succeeded it is
    not run again, and where it has failed it goes on. What could not work there is said before anything is sent.

    Example: `rayapp submit --cluster prod -- train configs/train-parakeet.yaml --set epochs=3`
    """
    with command_output(as_json) as output:
        from cluster.jobs import Cluster, Job
        from cluster.profile import open_profile
        from rayapp.cli.entrypoint import read_entrypoint
        from rayapp.cli.jobs import follow
        from rayapp.errors import UserError

        if words[0] in ("submit", "jobs"):
            raise UserError(f"`rayapp {words[0]}` runs here, not on a cluster")
        profile = open_profile(cluster)
        entrypoint = read_entrypoint(words, profile.environment)
        job = Job(entrypoint.words, entrypoint.settings, entrypoint.options)
        connected = Cluster(profile)
        submitted = connected.submit(job, Path.cwd(), again=again)
        address = connected.profile.address
        if submitted.is_new:
            output.console.print(f"{submitted.id} is submitted: {address}/#/jobs/{submitted.id}", soft_wrap=True)
        elif submitted.status == "SUCCEEDED":
            output.console.print(f"{submitted.id} has succeeded; --again runs it once more")
        else:
            output.console.print(f"{submitted.id} is there already: {submitted.status}")
        if wait and submitted.status != "SUCCEEDED":
            follow(connected, submitted.id, output)
        status = connected.details(submitted.id).status
        values = {"submission_id": submitted.id, "status": str(status), "submitted": submitted.is_new}
        output.result(values, f"{submitted.id}: {status}")
