"""A cluster of several nodes on one machine.

Each is a raylet with its processes and its object store, and can be lost by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cluster.network import NodeNetwork, node_network
from rayapp.errors import UserError

_PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_HOST = "127.0.0.1"
_ANY_PORT = "0"
_USUAL_DASHBOARD_PORT = 8265
"""That of the profile `local`, and of Ray's own commands."""
_HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
_RUNNING = "ray_current_cluster"
"""A file of Ray's."""


@dataclass(frozen=True)
class NodeShape:
    """What a node has, as Ray is to count it; the machine need not have it."""

    cpus: int = 1
    gpus: int = 0
    gpu_type: str | None = None
    object_store_bytes: int = 200_000_000

    def words(self) -> list[str]:
        """For `ray start`."""
        resources = {f"accelerator_type:{self.gpu_type}": 1} if self.gpu_type else {}  # as Ray does where it finds one
        labels = [f"--labels=ray.io/accelerator-type={self.gpu_type}"] if self.gpu_type else []
        return [
            f"--num-cpus={self.cpus}",
            f"--num-gpus={self.gpus}",
            f"--object-store-memory={self.object_store_bytes}",
            f"--resources={json.dumps(resources)}",
            *labels,
        ]


class LocalNode:
    """The processes of a node."""

    def __init__(self, words: Sequence[str], start: Callable[..., subprocess.Popen[Any]], log: Path) -> None:
        """start: as `Popen`."""
        self.id = ""  # Ray's, once the head knows it
        self._log = log
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block", "--disable-usage-stats"]
        with log.open("ab") as file:
            self._process = start(command, stdout=file, stderr=file, start_new_session=True)

    def require_alive(self) -> None:
        """Raises `UserError` where it has ended, with its last words."""
        if self._process.poll() is not None:
            last = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise UserError(f"a node of the local cluster did not start: {' '.join(last)}")

    def kill(self) -> None:
        """As a machine whose power is cut: no process of it has time for a word."""
        import psutil

        # A child whose parent has died is nobody's child, and stays in the session that it was born in.
        ours = {process for process in psutil.process_iter() if _session(process.pid) == self._process.pid}
        with contextlib.suppress(psutil.NoSuchProcess):
            ours.update(psutil.Process(self._process.pid).children(recursive=True))
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.kill()
        self._process.wait()


@dataclass
class LocalCluster:
    """A head, and the nodes beside it."""

    head_shape: NodeShape
    shape: NodeShape
    network: NodeNetwork
    folder: Path
    """Of logs and sessions."""
    redis: str | None
    """Address of a Redis that keeps what the head knows, so that it may be lost; None where that is its end."""
    nodes: list[LocalNode] = field(default_factory=list)
    """Without the head."""

    def __post_init__(self) -> None:
        self._port, self._dashboard_port = _free_port(), _free_port(_USUAL_DASHBOARD_PORT)
        self.profile.write_text(yaml.safe_dump({"address": self.url, "driver_cpus": 0}))

    @property
    def address(self) -> str:
        """For `RAY_ADDRESS`."""
        return f"{self.network.head}:{self._port}"

    @property
    def url(self) -> str:
        """Of Ray's dashboard."""
        return f"http://{_HOST}:{self._dashboard_port}"

    @property
    def profile(self) -> Path:
        """File for `cluster.profile.open_profile`."""
        return self.folder / "profile.yaml"

    @property
    def prometheus_targets(self) -> Path:
        """File that tells a Prometheus whom to ask, which Ray keeps up to date."""
        return self.folder / "prom_metrics_service_discovery.json"

    def start_head(self) -> None:
        """Start it, or start it again at the same address."""
        self.head = self._started(self._begin_head, set())

    def _begin_head(self) -> LocalNode:
        (self.folder / _RUNNING).unlink(missing_ok=True)  # or Ray takes the one that was killed to be alive
        words = [
            "--head",
            f"--temp-dir={self.folder}",
            f"--port={self._port}",
            f"--node-ip-address={self.network.head}",
            f"--dashboard-host={_HOST}",
            f"--dashboard-port={self._dashboard_port}",
            f"--dashboard-agent-listen-port={_ANY_PORT}",
            f"--ray-client-server-port={_free_port()}",
            *self.head_shape.words(),
        ]
        environment = {"RAY_REDIS_ADDRESS": self.redis} if self.redis else {}
        return self._begin(words, subprocess.Popen, "head", self.network.head, environment)

    def add_node(self) -> LocalNode:
        """One more; returns once the head knows it."""
        node = self._started(self._begin_node, {node.node_id for node in self.alive()})
        self.nodes.append(node)
        return node

    def _begin_node(self) -> LocalNode:
        address = self.network.next_address()
        words = [
            f"--address={self.address}",
            f"--node-ip-address={address}",
            f"--dashboard-agent-listen-port={_ANY_PORT}",
            *self.shape.words(),
        ]
        # Each node unpacks the folders of jobs there anew, whoever runs in one.
        own = (self.folder / "session_latest" / "runtime_resources").resolve()
        own.mkdir(exist_ok=True)
        start = partial(self.network.start, address=address, own=own)
        return self._begin(words, start, f"node-{len(self.nodes)}", address)

    def alive(self) -> list[Any]:
        """Ray's `NodeState`s of what the head takes to be there."""
        from ray.util.state import list_nodes

        return [node for node in list_nodes(address=self.url) if node.state == "ALIVE"]

    def stop(self) -> None:
        """All of it, the head last."""
        for node in [*self.nodes, *([self.head] if hasattr(self, "head") else [])]:
            node.kill()

    def _started(self, begin: Callable[[], LocalNode], earlier: Container[str]) -> LocalNode:
        """Ray gives a node 30 s, which a busy machine exceeds: then it is begun again."""
        for last in (False, False, True):
            node = begin()
            try:
                self._wait_for(node, earlier)
                return node
            except BaseException as error:
                node.kill()
                if last or not isinstance(error, UserError):
                    raise
        raise AssertionError

    def _begin(
        self,
        words: Sequence[str],
        start: Callable[..., subprocess.Popen[Any]],
        name: str,
        address: str,
        environment: Mapping[str, str] | None = None,
    ) -> LocalNode:
        ports = [f"--min-worker-port={_ANY_PORT}", f"--max-worker-port={_ANY_PORT}"]
        # Ray Serve takes a node to be a machine, with a /tmp of its own for HAProxy's files.
        serve = {variable: str(self.folder / name / file) for variable, file in _HAPROXY_FILES.items()}
        # Gloo would take the interface of the machine's name, which is loopback, and on it find nobody of another node.
        interface = self.network.interface(address)
        gloo = {"GLOO_SOCKET_IFNAME": interface} if interface else {}
        # A job's `python` is ours, though nobody may have activated our environment.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        started = partial(start, env={**os.environ, "PATH": path, **serve, **gloo, **(environment or {})})
        return LocalNode([*words, *ports], started, self.folder / f"{name}.log")

    def _wait_for(self, node: LocalNode, earlier: Container[str]) -> None:
        """Until the head knows one that is not among earlier ones, which may be lost already."""
        deadline, told = time.monotonic() + _PATIENCE_SECONDS, ""
        while time.monotonic() < deadline:
            node.require_alive()
            try:
                if new := [each.node_id for each in self.alive() if each.node_id not in earlier]:
                    node.id = new[0]
                    return
            except Exception as error:  # whatever a dashboard says that is about to start
                told = str(error)
            time.sleep(_LOOK_SECONDS)
        raise UserError(f"the local cluster has not come up within {_PATIENCE_SECONDS:g} s: {told}")


@contextmanager
def local_cluster(
    nodes: int, shape: NodeShape, head_shape: NodeShape | None = None, redis: str | None = None
) -> Iterator[LocalCluster]:
    """The nodes, the head among them, for the length of the block; its dashboard on loopback.

    head_shape: of the head, where it is another one. redis: address of a Redis, for a head that may be lost.

    Who wants in needs the token that `cluster.jobs.Cluster` looks for; where there is none, one is made.

    Raises `UserError` where a node does not start.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which reads it once
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled

    ensure_token_if_auth_enabled()
    with tempfile.TemporaryDirectory(prefix="rayapp-", ignore_cleanup_errors=True) as folder, node_network() as network:
        cluster = LocalCluster(head_shape or shape, shape, network, Path(folder), redis)
        try:
            cluster.start_head()
            for _ in range(nodes - 1):
                cluster.add_node()
            yield cluster
        finally:
            cluster.stop()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # it has ended meanwhile
        return None


def _free_port(wanted: int = 0) -> int:
    """The wanted one, or another where it is taken."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted))
        except OSError:
            probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
