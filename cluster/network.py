"""A network of its own for each node of a local cluster, where the system lets us.

Addresses and ports are as on as many machines: by Linux's namespaces, joined by a bridge that leads nowhere else. They
end with the processes in them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rayapp.errors import UserError

_TOOLS = ("ip", "mount", "nsenter", "unshare")
_HELD = 'read _ && mount --bind "$1" "$2" && shift 2 && exec "$@"'
"""Waits until it is connected."""
_NETWORKS = ipaddress.IPv4Network("10.213.0.0/16")
_HOST = "127.0.0.1"
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.01


@dataclass
class NodeNetwork:
    """The addresses of a cluster's nodes."""

    bridge: str | None
    """None where all share this machine's own."""
    addresses: Iterator[str]
    head: str
    """Address of the head, whose processes are in this machine's own network."""

    def next_address(self) -> str:
        """That of one more node."""
        return _HOST if self.bridge is None else next(self.addresses)

    def interface(self, address: str) -> str | None:
        """Name of the one with this address, where its node sees it; None where all share this machine's own."""
        return self.bridge if self.bridge is None or address == self.head else f"{self._cable(address)}p"

    def start(self, command: Sequence[str], address: str, own: Path, **options: Any) -> subprocess.Popen[bytes]:
        """A process that is found at an address from `next_address`.

        own: a folder that it sees as its own, empty at first, whatever others put there.

        Raises `UserError` where it cannot be connected.
        """
        if self.bridge is None:
            return subprocess.Popen(command, **options)
        mine = tempfile.mkdtemp(dir=own.parent)
        held = ["unshare", "--net", "--mount", "sh", "-c", _HELD, "sh", mine, str(own), *command]
        process = subprocess.Popen(held, stdin=subprocess.PIPE, **options)
        gate = process.stdin
        assert gate is not None
        try:
            _wait_until_apart(process.pid)
            self._connect(process.pid, address)
        except BaseException:
            gate.close()
            process.kill()
            process.wait()
            raise
        _open(gate)
        return process

    def _connect(self, pid: int, address: str) -> None:
        ours, theirs = self._cable(address), str(self.interface(address))
        inside = ("nsenter", "--target", str(pid), "--net")
        for words in (
            ("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs),
            ("ip", "link", "set", ours, "master", str(self.bridge), "up"),
            ("ip", "link", "set", theirs, "netns", str(pid)),
            (*inside, "ip", "address", "add", f"{address}/24", "dev", theirs),
            (*inside, "ip", "link", "set", theirs, "up"),
            (*inside, "ip", "link", "set", "lo", "up"),
        ):
            done = subprocess.run(words, check=False, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"no network for a node: `{' '.join(words)}` says {done.stderr.strip()}")

    def _cable(self, address: str) -> str:
        return f"{self.bridge}-{address.rpartition('.')[2]}"


@contextmanager
def node_network() -> Iterator[NodeNetwork]:
    """One for the length of the block; a shared one where the system does not let us make any."""
    bridge = f"ray{os.getpid() % 100_000}"  # names of interfaces have 15 letters at the most
    # Where the kernel has no bridges, there is none.
    if not _allowed() or not _done("ip", "link", "add", bridge, "type", "bridge"):
        yield NodeNetwork(None, iter(()), _HOST)
        return
    try:
        network = _given_addresses(bridge)
        head, *others = map(str, network.hosts()) if network else [_HOST]
        yield NodeNetwork(bridge if network else None, iter(others), head)
    finally:
        _remove(bridge)


def _allowed() -> bool:
    if not all(map(shutil.which, _TOOLS)):
        return False
    return _done("unshare", "--net", "--mount", "true")


def _given_addresses(bridge: str) -> ipaddress.IPv4Network | None:
    """None where all networks are taken."""
    told = subprocess.run(["ip", "-brief", "address"], check=False, capture_output=True, text=True).stdout
    networks = list(_NETWORKS.subnets(new_prefix=24))
    first = os.getpid() % len(networks)  # two clusters that start at once do not take the same
    for network in [*networks[first:], *networks[:first]]:
        address = f"{next(network.hosts())}/24"
        if address not in told:
            made = _done("ip", "address", "add", address, "dev", bridge) and _done("ip", "link", "set", bridge, "up")
            return network if made else None
    return None


def _remove(bridge: str) -> None:
    told = subprocess.run(["ip", "-brief", "link"], check=False, capture_output=True, text=True).stdout
    for name in re.findall(rf"^({bridge}(?:-\d+)?)\b", told, re.MULTILINE):
        _done("ip", "link", "delete", name)


def _done(*words: str) -> bool:
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


def _wait_until_apart(pid: int) -> None:
    """A process begins in our own network, and what was put there would stay."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    ours = Path("/proc/self/ns/net").readlink()
    try:
        while Path(f"/proc/{pid}/ns/net").readlink() == ours:
            if time.monotonic() > deadline:
                raise UserError(f"process {pid} has got no network of its own within {_PATIENCE_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS)
    except FileNotFoundError:
        raise UserError("a node of the local cluster ended before it had a network of its own") from None


def _open(gate: IO[bytes]) -> None:
    gate.write(b"\n")
    gate.close()
