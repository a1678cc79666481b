"""A switch for places whose data must not leave: with it, nothing outside is talked to, whoever asks for it.

It is a variable, and no setting of a run, so that whoever runs the place sets it once, and nobody unsets it in a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel

from rayapp.errors import UserError
from rayapp.nested import texts_in

VARIABLE = "RAYAPP_INSIDE_ONLY"
"""Patterns of the hosts that are inside, such as `*.hospital.internal,mlflow`; this machine is. Unset, all are."""
_ADDRESSES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "LANGFUSE_HOST",
    "LANGFUSE_BASE_URL",
    "OPENAI_BASE_URL",
)
"""Variables that name whom we talk to."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_LOCAL = ("file", "sqlite")
"""Schemes of what is on a disk."""
_STORES = {
    **dict.fromkeys(("gs", "gcs"), "storage.googleapis.com"),
    **dict.fromkeys(("abfs", "abfss", "az"), "blob.core.windows.net"),
    "hf": "huggingface.co",
}
"""Who is behind addresses that name a bucket where others name a host."""
_AWS = "s3.amazonaws.com"
_HUB = "https://huggingface.co"
_WANDB = "https://api.wandb.ai"


def require_inside(settings: BaseModel | None, environment: Mapping[str, str] | None = None) -> None:
    """Raises `UserError` for settings, or an environment, that would have data or questions go outside.

    settings: None asks of the environment alone.
    environment: with `RAYAPP_INSIDE_ONLY`, or without, when all is well.
    """
    environment = os.environ if environment is None else environment
    for who, address, advice in [*_named_by(environment), *_named_in(settings, environment)]:
        _require(who, address, advice, environment)


def require_location_inside(location: str) -> None:
    """Raises `UserError` for a location that is on a store outside, by the environment as it is."""
    if _is_remote(location):
        _require(location, location, _advice(location), os.environ)


def _require(who: str, address: str, advice: str, environment: Mapping[str, str]) -> None:
    patterns = [pattern.strip() for pattern in environment.get(VARIABLE, "").split(",") if pattern.strip()]
    host = _host(address, environment)
    if patterns and host not in _THIS_MACHINE and not any(fnmatch(host, pattern.lower()) for pattern in patterns):
        raise UserError(f"{who} is outside ({host}), and {VARIABLE} lets in {', '.join(patterns)} alone: {advice}")


def _host(address: str, environment: Mapping[str, str]) -> str:
    """Who is talked to. A bucket of S3's is on the store that its location or the environment names."""
    parts = urlsplit(address)
    scheme = parts.scheme.lower().removeprefix("fsspec+")
    if scheme != "s3":
        return _STORES.get(scheme) or parts.hostname or address
    told = parse_qs(parts.query).get("endpoint_override", [""])[0]
    store = told or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or _AWS
    return urlsplit(store if "://" in store else f"//{store}").hostname or store


def _named_by(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Whom the environment would have us talk to: what says so, the address, and what to do instead."""
    for name in _ADDRESSES:
        if _is_remote(environment.get(name, "")):
            yield name, environment[name], "set it to a server inside"
    if environment.get("HF_HUB_OFFLINE") != "1":
        hub = environment.get("HF_ENDPOINT", _HUB)
        yield "the hub of models", hub, "set HF_HUB_OFFLINE=1, or HF_ENDPOINT to a mirror"


def _named_in(settings: BaseModel | None, environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    offline = environment.get("WANDB_MODE") in ("offline", "disabled")
    for path, value in texts_in(settings):
        if path.rpartition(".")[2] == "wandb_project" and not offline:
            wandb = environment.get("WANDB_BASE_URL", _WANDB)
            yield path, wandb, "leave it out, or set WANDB_BASE_URL to a server of your own, or WANDB_MODE=offline"
        elif _is_remote(value):
            yield path, value, _advice(value)


def _advice(address: str) -> str:
    s3 = address.lower().startswith("s3:")
    return "set AWS_ENDPOINT_URL to a store inside" if s3 else "name a server inside"


def _is_remote(text: str) -> bool:
    scheme, sign, _ = text.strip().partition("://")
    return bool(sign) and scheme.isascii() and scheme.replace("+", "").isalnum() and scheme.lower() not in _LOCAL
