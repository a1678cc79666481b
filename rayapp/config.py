"""Settings: file < environment < command line, checked, explained and saved beside every output."""

from __future__ import annotations

import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.inside import require_inside

ENVIRONMENT_PREFIX = "RAYAPP_"
"""`RAYAPP_TRAINING__LEARNING_RATE=1e-3` sets `training.learning_rate`."""


Location: TypeAlias = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
"""A folder or file on any storage: `runs/speech`, `/fsx/speech`, `s3://bucket/speech`."""


class StepConfig(BaseModel):
    """Base of every step's settings: unknown keys are errors, and settings do not change once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    def idle_sections(self) -> tuple[str, ...]:
        """Names of the sections that are there, and that nobody looks at: another engine is chosen, say."""
        return ()


ConfigT = TypeVar("ConfigT", bound=StepConfig)


def load_config(
    kind: type[ConfigT],
    path: Path | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> ConfigT:
    """Read settings of `kind`: its defaults, then the YAML file, the environment, and `key.path=value`s.

    Raises `UserError` that names the key, the value and, for an unknown key, the nearest valid one; and for settings
    that `rayapp.inside` refuses.
    """
    values = _merged(_defaults(kind), _read_yaml(path)) if path else _defaults(kind)
    for keys, value in _from_environment(kind, os.environ if environment is None else environment):
        _put(values, keys, value, source="environment")
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise UserError(f"--set {override!r} is not KEY=VALUE; for example --set training.epochs=3")
        _put(values, key.split("."), _scalar(text), source=f"--set {override}")
    config = checked_config(kind, values, path)
    require_inside(config, environment)
    return config


def checked_config(kind: type[ConfigT], values: Mapping[str, Any], path: Path | None = None) -> ConfigT:
    """Settings of `kind`. path: where the values come from.

    Raises `UserError` as `load_config` does.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(kind, error, path)) from None


def save_config(config: StepConfig, folder: Path) -> Path:
    """Write the resolved settings as `config.json` into a folder of outputs."""
    path = folder / "config.json"
    path.write_text(config.model_dump_json(indent=2) + "\n")
    return path


def config_fingerprint(config: StepConfig) -> str:
    """Changes when, and only when, a setting changes."""
    return content_id(json.loads(config.model_dump_json()))


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """The sections that have a default, written out: who sets one key of a section keeps the rest of it."""
    return {
        name: field.default.model_dump(mode="json")
        for name, field in kind.model_fields.items()
        if isinstance(field.default, StepConfig)
    }


def _merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"configuration file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"configuration file {path} cannot be read: {error}") from None
    try:
        values = _YamlLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise UserError(f"configuration file {path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"configuration file {path} must hold keys and values; it holds a {type(values).__name__}")
    return values


class _YamlLoader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number, as everyone who writes a learning rate expects."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _scalar(text: str) -> Any:
    """The value of an override: YAML, so that numbers, booleans, lists and null are what they look like."""
    try:
        return _YamlLoader(text).get_single_data()
    except yaml.YAMLError:
        return text


def _from_environment(kind: type[BaseModel], environment: Mapping[str, str]) -> Iterator[tuple[list[str], Any]]:
    """The variables that name a setting of `kind`; others with the prefix belong to other commands."""
    for name, text in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if keys[0] in kind.model_fields:
            yield keys, _scalar(text)


def _put(values: dict[str, Any], keys: Sequence[str], value: Any, source: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"{source}: {'.'.join(keys[: depth + 1])} holds a value, not further keys")
    earlier = values.get(keys[-1])
    if isinstance(earlier, Mapping) and isinstance(value, Mapping):
        value = _merged(earlier, value)
    values[keys[-1]] = value


def _explain(kind: type[BaseModel], error: ValidationError, path: Path | None) -> str:
    lines = []
    for problem in error.errors():
        location = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(_explain_unknown_key(kind, location))
        elif problem["type"] == "value_error":
            lines.append(f"{location}: {problem['ctx']['error']}" if location else str(problem["ctx"]["error"]))
        else:
            lines.append(f"{location} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return f"settings{f' from {path}' if path else ''} are not valid:\n  " + "\n  ".join(lines)


def _explain_unknown_key(kind: type[BaseModel], location: str) -> str:
    known = sorted(_key_paths(kind))
    near = difflib.get_close_matches(location, known, n=1, cutoff=0.6)
    if not near:  # a right name in the wrong section is the other common slip
        near = [path for path in known if path.rsplit(".", 1)[-1] == location.rsplit(".", 1)[-1]][:1]
    parent = location.rpartition(".")[0]
    siblings = [path for path in known if path.rpartition(".")[0] == parent] or known
    hint = f"did you mean {near[0]}?" if near else f"valid keys here: {', '.join(siblings)}"
    return f"unknown key {location}; {hint}"


def _key_paths(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield prefix + name
        for nested in _models_in(field.annotation):
            yield from _key_paths(nested, f"{prefix}{name}.")


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
    return []
