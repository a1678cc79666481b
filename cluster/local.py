"""A cluster of several nodes on one machine: each has a raylet, and processes and an object store of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OBJECT_STORE_BYTES = 200_000_000
_ANY_PORT = 0


@contextmanager
def local_cluster(nodes: int, cpus: float, gpus: float = 0, gpu_type: str | None = None) -> Iterator[str]:
    """The nodes, for the length of the block, on loopback; yields the URL of Ray's dashboard.

    cpus, gpus, gpu_type: of each node, as Ray is to count them; the machine need not have them.

    Who wants in needs the token that `cluster.jobs.Cluster` looks for; where there is none, one is made.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which reads it once
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray.cluster_utils import Cluster

    ensure_token_if_auth_enabled()

    each: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": _OBJECT_STORE_BYTES}
    if gpu_type:  # as Ray does where it finds one
        each["resources"] = {f"accelerator_type:{gpu_type}": 1}
        each["labels"] = {"ray.io/accelerator-type": gpu_type}
    head = each | {
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_agent_listen_port": _ANY_PORT,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**each)
        cluster.wait_for_nodes()
        yield f"http://{cluster.webui_url}"
    finally:
        cluster.shutdown()
