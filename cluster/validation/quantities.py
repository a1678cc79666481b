"""Kubernetes' quantities as numbers."""

from __future__ import annotations

import re

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
