"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file; `configs/` has examples of each kind.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, such as `training.learning_rate=1e-3`; may be repeated."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to run on, such as `ray://head:10001`; without it `RAY_ADDRESS`, or a Ray of our own here.",
    ),
]
ClusterName = Annotated[
    str,
    typer.Option(
        "--cluster", metavar="NAME", help="Profile in `configs/cluster`, or its path.", envvar="RAYAPP_CLUSTER"
    ),
]
Home = Annotated[
    Path,
    typer.Option(
        "--home",
        metavar="FOLDER",
        help="Where the tracking file and the registry are, unless `MLFLOW_TRACKING_URI` names a server.",
    ),
]
