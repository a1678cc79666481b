"""What the manifests run: command lines and applications, read as the cluster would read them."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cluster.validation.manifests import Manifest, Overlay, Pod, Problem, pods_of
from rayapp.config import StepConfig
from rayapp.errors import UserError

_COMMANDS = (["python", "-m", "rayapp.cli"], ["rayapp"])
_PROJECT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Readers:
    """What knows our command lines and settings, which this package does not."""

    entrypoint: Callable[[Sequence[str], Mapping[str, str]], StepConfig | None]
    """Settings of a command line, without `rayapp`, in an environment. Raises `UserError`."""
    application: Callable[[Mapping[str, Any], Mapping[str, str]], StepConfig]
    """Settings of our application, from its `args`, in an environment. Raises `UserError`."""


@dataclass(frozen=True)
class Program:
    """A job or an application, and the pods that it runs in."""

    manifest: Manifest
    field: str
    settings: Sequence[StepConfig]
    """Of a job's command, or of each of our applications."""


def read_programs(overlay: Overlay, readers: Readers) -> tuple[list[Program], list[Problem]]:
    """Those of an overlay, and what is wrong with them."""
    programs, problems = [], []
    for manifest in overlay.of_kind("RayJob", "RayService"):
        job = manifest.kind == "RayJob"
        field = "spec.entrypoint" if job else "spec.serveConfigV2"
        try:
            settings = _of_a_job(manifest, overlay, readers) if job else _of_a_service(manifest, overlay, readers)
        except UserError as error:
            problems.append(manifest.problem(field, str(error)))
            continue
        if settings:
            programs.append(Program(manifest, field, settings))
    return programs, problems


def environment_of(pod: Pod, overlay: Overlay) -> dict[str, str]:
    """Variables of a pod's first container whose values are known here; those of Secrets are not."""
    container = pod.spec["containers"][0]
    found: dict[str, str] = {}
    maps = {manifest.name: manifest.body.get("data", {}) for manifest in overlay.of_kind("ConfigMap")}
    for source in container.get("envFrom", []):
        found |= maps.get(source.get("configMapRef", {}).get("name"), {})
    for variable in container.get("env", []):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
    return found


def _of_a_job(manifest: Manifest, overlay: Overlay, readers: Readers) -> list[StepConfig]:
    if "rayClusterSpec" not in manifest.spec:  # its pods are somebody else's
        return []
    try:
        words = shlex.split(manifest.spec.get("entrypoint") or "")
    except ValueError as error:
        raise UserError(f"`{manifest.spec['entrypoint']}` is no command line: {error}") from None
    command = next((c for c in _COMMANDS if words[: len(c)] == c), None)
    if command is None:
        raise UserError(f"`{shlex.join(words)}` is no command of rayapp's: begin with `python -m rayapp.cli`")
    head = next(pod for pod in pods_of(manifest) if pod.ray_role == "head")
    with tempfile.TemporaryDirectory() as folder:
        files = _mounted_files(head, overlay, Path(folder))
        ours = [str(files.get(word, _in_image(word))) for word in words[len(command) :]]
        try:
            settings = readers.entrypoint(ours, environment_of(head, overlay))
        except UserError as error:
            told = str(error)
            for path, file in files.items():
                told = told.replace(str(file), path)
            raise UserError(told) from None
    return [settings] if settings else []


def _in_image(word: str) -> str:
    """The project lies in the image as it does here."""
    return str(_PROJECT / word) if word.endswith((".yaml", ".yml")) and not Path(word).is_absolute() else word


def _mounted_files(pod: Pod, overlay: Overlay, folder: Path) -> dict[str, Path]:
    """The files that ConfigMaps put into a pod's first container, written out; by their paths there."""
    maps = {manifest.name: manifest.body.get("data", {}) for manifest in overlay.of_kind("ConfigMap")}
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    files = {}
    for mount in pod.spec["containers"][0].get("volumeMounts", []):
        name = volumes.get(mount["name"], {}).get("configMap", {}).get("name")
        for key, text in maps.get(name, {}).items():
            file = folder / str(name) / key
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            files[f"{mount['mountPath']}/{key}"] = file
    return files


def _of_a_service(manifest: Manifest, overlay: Overlay, readers: Readers) -> list[StepConfig]:
    from ray.serve.schema import ServeDeploySchema

    try:
        values = yaml.safe_load(manifest.spec.get("serveConfigV2", ""))
    except yaml.YAMLError as error:
        raise UserError(f"is not valid YAML: {error}") from None
    if unknown := _unknown_key(ServeDeploySchema, values):
        raise UserError(unknown)
    try:
        ServeDeploySchema.model_validate(values)
    except ValidationError as error:
        raise UserError(f"Ray Serve refuses it: {error}") from None
    head = next(pod for pod in pods_of(manifest) if pod.ray_role == "head")
    settings = []
    for application in values["applications"]:
        path = application["import_path"]
        module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"import_path {application['import_path']!r} cannot be imported: {error}") from None
        if found.__module__.partition(".")[0] == "serve":
            settings.append(readers.application(application.get("args", {}), environment_of(head, overlay)))
    return settings


def _unknown_key(kind: type[BaseModel], values: Any, path: str = "") -> str | None:
    """Ray's own schema takes keys that it does not know, and ignores them. `args` and `user_config` are an
    application's."""
    if not isinstance(values, Mapping):
        return None
    for key, value in values.items():
        if key not in kind.model_fields:
            return f"unknown key {path}{key}; known there: {', '.join(kind.model_fields)}"
        for inner in _models_in(kind.model_fields[key].annotation):
            for item in value if isinstance(value, list) else [value]:
                if found := _unknown_key(inner, item, f"{path}{key}."):
                    return found
    return None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
