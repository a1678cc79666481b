"""Jobs on a cluster, through Ray's Jobs API: submitted once, followed, looked up and stopped. Needs no more than the
light install."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.profile import ClusterProfile
from cluster.working_directory import ALWAYS_EXCLUDED, packed_files, require_what_is_named
from rayapp.config import StepConfig, config_fingerprint
from rayapp.errors import UserError
from rayapp.gpus import GpuDemand, gpu_demands
from rayapp.ids import content_id
from rayapp.inside import VARIABLE, require_inside

_CONNECT_SECONDS = 10.0
_RECONNECT_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Waits before each try to follow a job again; a head that starts again is back in a minute."""
_ENTRYPOINT = ("python", "-m", "rayapp.cli")
_TOKEN = Path.home() / ".ray" / "auth_token"
_GPU_TYPE = "accelerator_type:"
_MOST_NODES = 10_000
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")
_NO_OTHER_JOB = ("config_file", "as_json")
"""What may be given otherwise, and the same is done."""


@dataclass(frozen=True)
class Job:
    """A command of `rayapp` that is to run on a cluster."""

    words: tuple[str, ...]
    """The command without `rayapp`, such as `("train", "configs/train.yaml")`."""
    settings: StepConfig | None = None
    """Of its configuration file; None for a command that has none."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the command is told beside settings, and the path of their file; see `rayapp.cli.entrypoint`."""

    @property
    def id(self) -> str:
        """The same for the same command with the same settings, whatever file they are in."""
        if not self.settings:
            return f"{self.words[0]}-{content_id(list(self.words))}"
        others = {name: value for name, value in self.options.items() if name not in _NO_OTHER_JOB}
        return f"{self.words[0]}-{content_id([self.words[0], config_fingerprint(self.settings), others])}"

    @property
    def entrypoint(self) -> str:
        return shlex.join((*_ENTRYPOINT, *self.words))


@dataclass(frozen=True)
class Submitted:
    """A job on a cluster."""

    id: str
    status: str
    is_new: bool
    """False where it was there already."""


class Cluster:
    """A cluster that answers, and runs our version of Ray."""

    def __init__(self, profile: ClusterProfile) -> None:
        """A token is sent where there is one: `RAY_AUTH_TOKEN`, the file `RAY_AUTH_TOKEN_PATH`, or `~/.ray/auth_token`.

        Raises `UserError` for a cluster that cannot be reached, refuses the token, or runs another Ray.
        """
        self.profile = profile
        _use_token()
        import ray
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)  # they tell of each file of ignored names
        _require_answer(profile.address)
        try:
            self._client = JobSubmissionClient(profile.address)
        except AuthenticationError as error:
            raise UserError(
                f"{profile.address} lets nobody in with this token, or without one: export RAY_AUTH_TOKEN, or the path "
                f"of a file with it as RAY_AUTH_TOKEN_PATH ({str(error).splitlines()[0]})"
            ) from None
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{profile.address} is not Ray's dashboard, or does not answer as one: {error}") from None
        theirs = self._client._server_ray_version
        if theirs != ray.__version__:
            raise UserError(
                f"the cluster runs Ray {theirs}, and this machine {ray.__version__}: install the cluster's rayapp "
                "here, or deploy the image of this one"
            )

    def submit(self, job: Job, folder: Path, *, again: bool = False) -> Submitted:
        """Submit a job, unless it runs, or has succeeded: then it is told how that one is.

        A job that failed or was stopped is submitted again and goes on where it was.

        folder: the working directory, which goes along. again: also after it has succeeded.

        Raises `UserError` for what could not work there: too large a folder, a command or settings that name what is
        only here, or somebody outside of where the data must stay, GPUs that the cluster has not.
        """
        packed = packed_files(folder, self.profile.exclude)
        require_what_is_named(job.options, folder, list(packed), self.profile.shared)
        if job.settings:
            require_inside(job.settings, self.profile.environment)
            if here := os.environ.get(VARIABLE):  # does not go along, where it might undo the cluster's, and holds
                require_inside(job.settings, {**self.profile.environment, VARIABLE: here})
            require_what_is_named(job.settings, folder, list(packed), self.profile.shared)
            self._require_gpus(list(gpu_demands(job.settings)))
        earlier = self._runs(job.id)
        if earlier and (earlier[-1].status not in _OVER or (earlier[-1].status == "SUCCEEDED" and not again)):
            return Submitted(earlier[-1].submission_id, earlier[-1].status, False)
        submission_id = f"{job.id}-{len(earlier) + 1}"
        try:
            self._client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=submission_id,
                runtime_env={
                    "working_dir": str(folder),
                    "excludes": [*ALWAYS_EXCLUDED, *self.profile.exclude],
                    "env_vars": {"PYTHONUNBUFFERED": "1", **self.profile.environment},
                },
                metadata={"rayapp": job.words[0], "command": shlex.join(job.words)},
                entrypoint_num_cpus=self.profile.driver_cpus,
            )
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{self.profile.address} did not take {submission_id}: {str(error).strip().splitlines()[-1]}; "
                "`rayapp jobs list` shows whether it is there"
            ) from error
        return Submitted(submission_id, "PENDING", True)

    def jobs(self) -> Sequence[Any]:
        """Ray's `JobDetails` of our jobs, the latest first."""
        ours = [job for job in self._client.list_jobs() if "rayapp" in (job.metadata or {})]
        return sorted(ours, key=lambda job: -(job.start_time or 0))

    def details(self, submission_id: str) -> Any:
        """Ray's `JobDetails`. Raises `UserError` for a job that is not there, with those that are."""
        for job in self._client.list_jobs():
            if job.submission_id == submission_id:
                return job
        known = ", ".join(job.submission_id for job in self.jobs()) or "none"
        raise UserError(f"there is no job {submission_id!r} on {self.profile.address}; there: {known}")

    def logs(self, submission_id: str) -> str:
        """What it has printed so far."""
        return str(self._client.get_job_logs(self.details(submission_id).submission_id))

    async def follow(self, submission_id: str) -> AsyncIterator[str]:
        """What it prints, from the start to its end, over connections that drop.

        Raises `UserError` where the cluster does not come back: the job goes on without us.
        """
        import aiohttp

        self.details(submission_id)
        told, waits = 0, iter(_RECONNECT_SECONDS)
        while True:
            passed = 0  # each connection begins with what the job printed first
            with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
                async for lines in self._client.tail_job_logs(submission_id):
                    new = lines[max(told - passed, 0) :]
                    passed += len(lines)
                    if new:
                        told, waits = passed, iter(_RECONNECT_SECONDS)
                        yield new
                if self.details(submission_id).status in _OVER:
                    return
            if (seconds := next(waits, None)) is None:
                raise UserError(
                    f"{self.profile.address} does not answer any more. {submission_id} goes on; once the cluster "
                    f"answers, `rayapp jobs logs -f {submission_id}` follows it"
                )
            await asyncio.sleep(seconds)

    def stop(self, submission_id: str) -> bool:
        """Have it end as with Ctrl-C. Returns whether it still ran."""
        return bool(self._client.stop_job(self.details(submission_id).submission_id))

    def _runs(self, job_id: str) -> list[Any]:
        """Of a job, in the order in which they were submitted."""
        numbered = [job for job in self.jobs() if (job.submission_id or "").rpartition("-")[0] == job_id]
        return sorted(numbered, key=lambda job: int(job.submission_id.rpartition("-")[2]))

    def _require_gpus(self, demands: Sequence[GpuDemand]) -> None:
        """Raises `UserError` for a process that no node has the GPUs for, now or when the cluster has grown."""
        if not demands:
            return
        from ray.util.state import list_nodes

        nodes = list_nodes(address=self.profile.address, filters=[("state", "=", "ALIVE")], limit=_MOST_NODES)
        there = max([self.profile.max_gpus or 0.0, *(node.resources_total.get("GPU", 0) for node in nodes)])
        found = {
            name.removeprefix(_GPU_TYPE) for n in nodes for name in n.resources_total if name.startswith(_GPU_TYPE)
        }
        kinds = sorted({*found, *self.profile.gpu_types})
        for demand in demands:
            if demand.gpus > there:
                raise UserError(
                    f"{demand.setting}: a process asks for {demand.gpus:g} GPUs, and no node has more than {there:g}; "
                    "lower the setting, or set max_gpus in the profile where the cluster grows"
                )
            if demand.gpu_type and demand.gpu_type not in kinds:
                raise UserError(
                    f"{demand.setting}: the cluster has no GPU of type {demand.gpu_type}; it has "
                    f"{', '.join(kinds) or 'none that tells its type'}; take one of these, or add it to gpu_types in "
                    "the profile where the cluster grows"
                )


def _use_token() -> None:
    """As `ray job submit` does, and Ray's own client does not: a token is sent where there is one. Before Ray is
    imported, which reads the mode once."""
    there = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or _TOKEN.is_file()
    if there:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _require_answer(address: str) -> None:
    """Ray's client would wait for minutes."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"nothing answers at {address} ({error.strerror or error}); on Kubernetes: kubectl port-forward "
            "svc/NAME-head-svc 8265"
        ) from None
