"""The Secrets that the manifests name: with passwords and keys drawn here, and no two clusters alike."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

import yaml

SECRETS: Mapping[str, tuple[str, ...]] = {
    "postgres": ("password",),
    "serving-redis": ("password",),
    "serving-keys": ("keys.yaml",),
    "gateway": ("master-key", "salt-key", "serving-key"),
    "langfuse": (
        "nextauth-secret",
        "salt",
        "encryption-key",
        "clickhouse-password",
        "redis-password",
        "public-key",
        "secret-key",
        "otlp-headers",
        "user-password",
    ),
    "object-store": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "huggingface": ("token",),
}
"""By name, the keys of each."""
_OF_OTHERS = {
    # Not the administrator's own keys, which may be in his environment.
    "object-store": {key: key.replace("AWS", "OBJECT_STORE") for key in SECRETS["object-store"]},
    "huggingface": {"token": "HF_TOKEN"},
}
"""What cannot be drawn: the variables that hold it. A Secret whose variables are not set is left out."""


def left_out(environment: Mapping[str, str]) -> dict[str, list[str]]:
    """By name, the Secrets that cannot be made, and the variables that they lack."""
    lacking = {
        name: [v for v in variables.values() if not environment.get(v)] for name, variables in _OF_OTHERS.items()
    }
    return {name: variables for name, variables in lacking.items() if variables}


def draw(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The Secrets as objects of Kubernetes'. environment: for those that others hand out."""
    serving_key, public, secret = _token("sk-rayapp-"), _token("pk-lf-"), _token("sk-lf-")
    entry = {"name": "gateway", "sha256": hashlib.sha256(serving_key.encode()).hexdigest()}
    values: dict[str, dict[str, str]] = {
        "postgres": {"password": secrets.token_hex(24)},
        "serving-redis": {"password": secrets.token_hex(24)},
        "serving-keys": {"keys.yaml": yaml.safe_dump([entry])},
        "gateway": {"master-key": _token("sk-"), "salt-key": _token("sk-"), "serving-key": serving_key},
        "langfuse": {
            "nextauth-secret": secrets.token_urlsafe(32),
            "salt": secrets.token_urlsafe(32),
            "encryption-key": secrets.token_hex(32),  # Langfuse wants 256 bits as 64 digits
            "clickhouse-password": secrets.token_hex(24),
            "redis-password": secrets.token_hex(24),
            "public-key": public,
            "secret-key": secret,
            "otlp-headers": "Authorization=Basic " + base64.b64encode(f"{public}:{secret}".encode()).decode(),
            "user-password": secrets.token_urlsafe(16),
        },
    }
    for name, variables in _OF_OTHERS.items():
        if name not in left_out(environment):
            values[name] = {key: environment[variable] for key, variable in variables.items()}
    return [_object(name, data) for name, data in values.items()]


def _object(name: str, data: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "rayapp"},
        "type": "Opaque",
        "stringData": dict(data),
    }


def _token(prefix: str) -> str:
    return prefix + secrets.token_urlsafe(32)
