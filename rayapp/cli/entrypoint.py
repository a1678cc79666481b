"""A command line of ours, read without being run: for jobs that are to run elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from rayapp.config import StepConfig, load_config
from rayapp.errors import UserError

SETTINGS_OF = {
    "ablate": "pipelines.config:AblateConfig",
    "adapt": "pipelines.config:AdaptConfig",
    "audition": "pipelines.config:SynthesisConfig",
    "evaluate": "pipelines.evaluation.config:EvaluationConfig",
    "plan": "pipelines.config:SynthesisConfig",
    "quickstart": "pipelines.config:QuickstartConfig",
    "release": "pipelines.release.config:ReleaseConfig",
    "serve": "serve.config:ServeConfig",
    "synthesize": "pipelines.config:SynthesisConfig",
    "train": "pipelines.config:TrainConfig",
    "tune-batch": "pipelines.config:TrainConfig",
}
"""What the commands that have a file of settings read it as."""


@dataclass(frozen=True)
class Entrypoint:
    """A command line that our own parser takes."""

    words: tuple[str, ...]
    """Without `rayapp`."""
    settings: StepConfig | None
    """None where the command has no file of settings."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else it was told, by the names of its parameters, and the path of the file."""


def read_entrypoint(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Entrypoint:
    """Parses a command line, and loads its settings from this folder.

    words: without `rayapp`, such as `["train", "configs/train.yaml", "--set", "epochs=3"]`.
    environment: that it is to run in; without it, ours.

    Raises `UserError` for what the command would not take.
    """
    from rayapp.cli.main import app

    command, rest, shown = typer.main.get_command(app), list(words), shlex.join(["rayapp", *words])
    while isinstance(command, TyperGroup):
        known = command.commands
        if not rest or rest[0] not in known:
            raise UserError(f"`{shown}` is no command; known here: {', '.join(known)}")
        command = known[rest.pop(0)]
    try:
        context = command.make_context(command.name, rest)
    except TyperException as error:
        raise UserError(f"`{shown}` is no command: {error.format_message()}") from None
    except typer.Exit:
        raise UserError(f"`{shown}` only explains itself: run it here") from None
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in context.params.items()
        if name != "overrides" and (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    if words[0] not in SETTINGS_OF:
        return Entrypoint(tuple(words), None, options)
    module, _, kind = SETTINGS_OF[words[0]].partition(":")
    file: Path | None = context.params.get("config_file")
    settings = load_config(
        getattr(import_module(module), kind), file, context.params.get("overrides") or [], environment
    )
    return Entrypoint(tuple(words), settings, options)
