"""Kubernetes' quantities as numbers, and what pods ask for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rayapp.errors import UserError

_SUFFIXES = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    **{suffix: 1000.0**power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": 1024.0**power for power, suffix in enumerate("KMGTPE", start=1)},
}


def amount(quantity: str | float) -> float:
    """In units: CPUs, bytes, devices.

    >>> amount("95690m"), amount("2Gi"), amount(8), amount("1e3")
    (95.69, 2147483648.0, 8.0, 1000.0)

    Raises `UserError` for what is none.
    """
    found = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([a-zA-Z]*)", str(quantity))
    if not found or found[2] not in _SUFFIXES:
        raise UserError(f"{quantity!r} is no quantity; for example 500m, 16Gi, 8")
    return float(found[1]) * _SUFFIXES[found[2]]


def requests_of(pod_spec: Mapping[str, Any]) -> Counter[str]:
    """What a pod asks its node for, by resource: all its containers together, or more where one that initialises does.

    >>> two = [{"resources": {"limits": {"cpu": "2"}}}, {"resources": {"requests": {"cpu": "500m"}}}]
    >>> requests_of({"containers": two})
    Counter({'cpu': 2.5})
    """
    together: Counter[str] = Counter()
    for container in pod_spec["containers"]:
        together.update(_requests_of_one(container))
    for container in pod_spec.get("initContainers", []):
        together |= _requests_of_one(container)
    return together


def _requests_of_one(container: Mapping[str, Any]) -> Counter[str]:
    resources = container.get("resources") or {}
    # Where a limit alone is said, the API takes it for the request.
    said = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return Counter({name: amount(quantity) for name, quantity in said.items()})
