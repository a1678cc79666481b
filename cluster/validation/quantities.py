"""Kubernetes' quantities as numbers."""

from __future__ import annotations

import re
from decimal import Decimal

from rayapp.errors import UserError

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def amount(quantity: str | float) -> float:
    """In units: CPUs, bytes, devices.

    >>> amount("95690m"), amount("2Gi"), amount(8), amount("1e3")
    (95.69, 2147483648.0, 8.0, 1000.0)

    Raises `UserError` for what is none.
    """
    return float(exact(quantity))


def exact(quantity: str | float) -> Decimal:
    """As `amount`, for sums: three times 100m is 300m."""
    found = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([a-zA-Z]*)", str(quantity))
    if not found or found[2] not in _SUFFIXES:
        raise UserError(f"{quantity!r} is no quantity; for example 500m, 16Gi, 8")
    return Decimal(found[1]) * _SUFFIXES[found[2]]
