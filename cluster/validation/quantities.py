"""Kubernetes' quantities as numbers."""

from __future__ import annotations

import re

_SUFFIXES = {
    "": 1.0,
    "m": 1e-3,
    **{suffix: 1000.0**power for power, suffix in enumerate("kMGTP", start=1)},
    **{f"{suffix}i": 1024.0**power for power, suffix in enumerate("KMGTP", start=1)},
}


def amount(quantity: str | float) -> float:
    """In units: CPUs, bytes, devices.

    >>> amount("95690m"), amount("2Gi"), amount(8)
    (95.69, 2147483648.0, 8.0)
    """
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(quantity))
    if not found or found[2] not in _SUFFIXES:
        raise ValueError(f"{quantity!r} is no quantity; for example 500m, 16Gi, 8")
    return float(found[1]) * _SUFFIXES[found[2]]
