"""How a cluster is reached, and what its jobs need there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from rayapp.config import StepConfig, load_config
from rayapp.errors import UserError
from rayapp.inside import require_inside

PROFILES = Path("configs/cluster")


class ClusterProfile(StepConfig):
    """A cluster that jobs are submitted to. It holds no secret: for tokens see `cluster.jobs.Cluster`."""

    address: str = Field(default="http://127.0.0.1:8265", pattern=r"^https?://")
    """Of Ray's dashboard on the head node; with `kubectl port-forward`, a port of this machine."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of the job and of its workers, such as `MLFLOW_TRACKING_URI`."""
    exclude: tuple[str, ...] = ()
    """Patterns, as in `.gitignore`, of what stays here of the working directory, besides what `.gitignore` and
    `.rayignore` name."""
    shared: tuple[str, ...] = ()
    """Folders that all nodes have at the same path, such as `/fsx`: settings may name files there that this machine has
    not."""
    max_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of the largest node that the cluster grows to; without it, of those that it has now."""
    gpu_types: tuple[str, ...] = ()
    """Ray's names of GPUs that the cluster has when it has grown, besides those that it has now."""
    driver_cpus: float = Field(default=1, ge=0)
    """Reserved for the job's own process. With 0 it may run on the head, which has room for few."""


def open_profile(name: str) -> ClusterProfile:
    """A profile by its name in `configs/cluster`, or by its path. Raises `UserError` where there is none."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml"))) or "none"
        raise UserError(f"there is no cluster {name!r}; in {PROFILES}: {known}; or give a file")
    profile = load_config(ClusterProfile, path, environment={})
    require_inside(profile)
    return profile
