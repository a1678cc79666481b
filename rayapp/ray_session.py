"""Starting Ray on this machine, or connecting to the cluster that the environment names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayapp.errors import UserError

OBJECT_STORE_BYTES = 1_000_000_000
_SERVE_ENVIRONMENT = {
    # Requests go from process to process by gRPC, not as calls of actors, and stay in one event loop each: with short
    # ones, a third more of them in the same time.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # HAProxy, where it is used, would else cut what is uploaded or listened to for longer than two minutes.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",
    # On a machine that is busy, a proxy takes longer than Ray's 5 s to import what it needs.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
"""Read by Ray Serve when it is imported, in every process."""
_ours = False
"""Whether the Ray in use was started here and ends here: it will never have more than it has now."""


def cache_folder() -> Path:
    """Where what can be made again is kept: base models."""
    return Path(os.environ.get("RAYAPP_CACHE") or Path.home() / ".cache" / "rayapp")


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Ray for the length of the block.

    address: a running cluster; without it `RAY_ADDRESS` (set by `ray job submit`), and without that a
        Ray of our own on this machine, which ends with the block whatever happens. A Ray that happens
        to run here is left alone.

    Raises `UserError` for a cluster that cannot be reached or runs other versions.
    """
    # `uv run` makes Ray rebuild the whole environment for each worker, unless told before the import.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its files in /tmp/ray keep the rest
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # How Serve's controller always ends: Ray reports it as a failure.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"ServeController\.graceful_shutdown failed")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name, value in _SERVE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    global _ours
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    if local:  # nobody takes this machine away; the actor that watches out for it imports torch to do so
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    else:  # where there is a dashboard, its page of trainings would stay empty
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": worker_environment()},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if local else {}),
        )
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise UserError(_explain(address, error)) from error
    _quiet_ray_data(ray.data.DataContext.get_current())
    _ours = local
    try:
        yield
    finally:
        _ours = False
        ray.shutdown()


def require_room(cpus: float, gpus: float, advice: str, *, memory_gb: float = 0.0) -> None:
    """Raises `UserError` for more than this machine has: whatever waits for it would wait for ever.

    A cluster is not asked: more nodes may join it.
    """
    import ray

    if not _ours:
        return
    there = ray.cluster_resources()
    wanted = {"CPUs": cpus, "GPUs": gpus, "GB of memory": memory_gb}
    found = {"CPUs": there.get("CPU", 0.0), "GPUs": there.get("GPU", 0.0), "GB of memory": there["memory"] / 1e9}
    for kind, count in wanted.items():
        if count > found[kind]:
            raise UserError(f"{count:g} {kind} are wanted; this machine has {found[kind]:.3g} to give: {advice}")


def available_cpus() -> int:
    """CPUs of the Ray in use, or of this machine where none is."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else os.cpu_count() or 1


def worker_environment() -> dict[str, str]:
    """Environment that every worker starts with."""
    return {
        "NEMO_LOG_LEVEL": "ERROR",
        "TQDM_DISABLE": "1",
        **_SERVE_ENVIRONMENT,
        # Keep freed memory: a training step on the CPU asks for the same large blocks again and again,
        # and fresh pages for them cost a tenth of its time.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        # And ask for pages of 2 MB: glibc gives blocks above 32 MB back at once whatever is set, and a step has many.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }


def _quiet_ray_data(context: Any) -> None:
    """Steps show their own progress; Ray Data's would interleave with it."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _explain(address: str, error: Exception) -> str:
    text = str(error).strip()
    if "ersion mismatch" in text:
        return (
            f"the Ray at {address} runs other versions than this environment: {text}\n"
            "Install the cluster's versions here, or unset RAY_ADDRESS to use a Ray of your own"
        )
    if address == "local":
        return f"Ray did not start on this machine: {text}"
    return f"the Ray at {address} cannot be reached: {text}\nCheck it, or unset RAY_ADDRESS to use a Ray of your own"
