"""How a cluster's manifests are read with our own eyes: command lines by our parser, applications by our settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.validation.programs import Readers
from rayapp.cli.entrypoint import read_entrypoint
from rayapp.config import StepConfig, checked_config
from rayapp.inside import require_inside


def _of_entrypoint(words: Sequence[str], environment: Mapping[str, str]) -> StepConfig | None:
    return read_entrypoint(words, environment).settings


def _of_application(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> StepConfig:
    from serve.config import ServeConfig

    settings = checked_config(ServeConfig, arguments)
    require_inside(settings, environment)
    return settings


READERS = Readers(_of_entrypoint, _of_application)
