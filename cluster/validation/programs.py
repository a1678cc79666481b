"""What the manifests run: command lines and applications, read as the cluster would read them."""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
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
_IN_IMAGE = Path("/app")
"""Where the project lies in the images; jobs start there."""


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


def read_programs(overlay: Overlay, readers: Readers, not_checked: Counter[str]) -> tuple[list[Program], list[Problem]]:
    """Those of an overlay, and what is wrong with them."""
    programs, problems = [], []
    for manifest in overlay.of_kind("RayJob", "RayService"):
        job = manifest.kind == "RayJob"
        field = "spec.entrypoint" if job else "spec.serveConfigV2"
        try:
            if job:
                settings = _of_a_job(manifest, overlay, readers, not_checked)
            else:
                settings = _of_a_service(manifest, overlay, readers)
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


def _of_a_job(manifest: Manifest, overlay: Overlay, readers: Readers, not_checked: Counter[str]) -> list[StepConfig]:
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
        unknown = [word for word in words if word not in files and _is_elsewhere(word, head, overlay)]
        if unknown:
            not_checked[f"{manifest.name} with {unknown[0]}, on a volume, or in a folder that comes along"] += 1
            return []
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
    path = _IN_IMAGE / word
    return str(_PROJECT / path.relative_to(_IN_IMAGE)) if _is_settings(word) and _IN_IMAGE in path.parents else word


def _is_elsewhere(word: str, pod: Pod, overlay: Overlay) -> bool:
    """Whether a word is a file of settings that nobody can read here."""
    if not _is_settings(word):
        return False
    if not Path(word).is_absolute():
        return "working_dir" in pod.manifest.spec.get("runtimeEnvYAML", "")
    known = {
        volume["name"]
        for volume in pod.spec.get("volumes", [])
        if overlay.find("ConfigMap", volume.get("configMap", {}).get("name", ""), pod.manifest.namespace)
    }
    mounts = pod.spec["containers"][0].get("volumeMounts", [])
    return any(mount["name"] not in known and Path(mount["mountPath"]) in Path(word).parents for mount in mounts)


def _is_settings(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _mounted_files(pod: Pod, overlay: Overlay, folder: Path) -> dict[str, Path]:
    """The files that ConfigMaps put into a pod's first container, written out; by their paths there."""
    maps = {manifest.name: manifest.body.get("data", {}) for manifest in overlay.of_kind("ConfigMap")}
    volumes = {volume["name"]: volume.get("configMap", {}) for volume in pod.spec.get("volumes", [])}
    files = {}
    for mount in pod.spec["containers"][0].get("volumeMounts", []):
        source = volumes.get(mount["name"], {})
        told = maps.get(source.get("name"), {})
        paths = {item["path"]: item["key"] for item in source.get("items", [])} or {key: key for key in told}
        for path, key in paths.items():
            if mount.get("subPath", path) != path or key not in told:
                continue
            file = folder / source["name"] / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(told[key])
            files[mount["mountPath"] if "subPath" in mount else f"{mount['mountPath']}/{path}"] = file
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
