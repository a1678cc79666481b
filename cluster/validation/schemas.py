"""Objects against the schemas of their kinds: Kubernetes' own, and those of custom resources.

Unknown fields are errors, which an API server would drop without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from cluster.validation.manifests import Manifest, Problem
from rayapp.ids import content_id

KUBERNETES = "1.33"
"""The version whose schemas are asked."""
_INT_OR_STRING = "x-kubernetes-int-or-string"
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_Broken: TypeAlias = tuple[str, str]
"""The path of a field, and what is wrong with it."""


@dataclass(frozen=True)
class Schemas:
    """Of all kinds that are known."""

    crds: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    """OpenAPI schema of a custom resource, by API version and kind."""

    _seen: dict[str, tuple[list[_Broken], Counter[str]]] = field(default_factory=dict)
    """By content: overlays share most of their objects."""

    def problems(self, manifest: Manifest, not_checked: Counter[str]) -> Iterator[Problem]:
        """not_checked: counts what could not be."""
        key = content_id(manifest.body)
        if key not in self._seen:
            missed: Counter[str] = Counter()
            self._seen[key] = (list(self._broken(manifest, missed)), missed)
        broken, missed = self._seen[key]
        not_checked.update(missed)
        yield from (manifest.problem(path, what) for path, what in broken)

    def _broken(self, manifest: Manifest, not_checked: Counter[str]) -> Iterator[_Broken]:
        import kubernetes_validate

        key = (manifest.body["apiVersion"], manifest.kind)
        if schema := self.crds.get(key):
            yield from _broken_custom(manifest.body, schema, not_checked)
            return
        try:
            kubernetes_validate.validate(dict(manifest.body), KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            not_checked[f"{manifest.kind} ({key[0]}): no CRD of it is among those given"] += 1
        except kubernetes_validate.ValidationError as error:
            yield _dotted(error.path), error.message


def open_schemas(crds: Path | None) -> Schemas:
    """Kubernetes' own schemas, and those of operators.

    crds: folder of CustomResourceDefinitions as YAML; without it, custom resources are checked by our own rules alone.
    """
    known = {}
    for file in sorted(crds.glob("*.y*ml")) if crds else []:
        for body in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            if not body or body.get("kind") != "CustomResourceDefinition":
                continue
            spec = body["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                known[key] = version["schema"]["openAPIV3Schema"]
    return Schemas(known)


def _broken_custom(body: Mapping[str, Any], schema: Mapping[str, Any], not_checked: Counter[str]) -> Iterator[_Broken]:
    from jsonschema import Draft202012Validator

    body = _with_defaults(schema, body)
    for error in Draft202012Validator(_strict(schema)).iter_errors(body):
        yield _dotted(error.absolute_path), error.message
    for path, rule in _broken_rules(schema, body, "", not_checked):
        yield path or "spec", rule


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of an OpenAPI one: unknown properties refused, Kubernetes' own words translated."""
    kept = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "format"}
    if schema.get(_INT_OR_STRING):
        kept.pop("type", None)
        kept.pop("anyOf", None)
        kept["type"] = ["integer", "string"]
    if "properties" in schema:
        kept["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if not schema.get(_PRESERVE) and "additionalProperties" not in schema:
            kept["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            kept[key] = _strict(schema[key])
    if "apiVersion" in kept.get("properties", {}):
        kept["properties"]["metadata"] = {"type": "object"}  # which the schema of a CRD leaves to the API server
    if schema.get("nullable"):
        return {"anyOf": [kept, {"type": "null"}]}
    return kept


def _with_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    """What the API server makes of it before it looks: rules speak of fields that have a default as if set."""
    if isinstance(value, Mapping):
        fields = schema.get("properties", {})
        missing = {name: f["default"] for name, f in fields.items() if name not in value and "default" in f}
        rest = schema.get("additionalProperties")
        rest = rest if isinstance(rest, Mapping) else {}
        return {name: _with_defaults(fields.get(name, rest), item) for name, item in {**missing, **value}.items()}
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [_with_defaults(schema["items"], item) for item in value]
    return value


def _broken_rules(schema: Mapping[str, Any], value: Any, path: str, not_checked: Counter[str]) -> Iterator[_Broken]:
    """Rules in CEL (`x-kubernetes-validations`) that do not hold, with where.

    Those on how an object changes say nothing of one alone.
    """
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and _holds(rule["rule"], value, not_checked) is False:
            yield path, rule.get("message") or f"breaks the rule {rule['rule']}"
    if isinstance(value, Mapping):
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(inner, Mapping):
                yield from _broken_rules(inner, item, f"{path}.{name}".lstrip("."), not_checked)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for number, item in enumerate(value):
            yield from _broken_rules(schema["items"], item, f"{path}[{number}]", not_checked)


def _holds(rule: str, value: Any, not_checked: Counter[str]) -> bool | None:
    """None for a rule that uses what only Kubernetes' own CEL has."""
    import celpy
    from celpy.adapter import json_to_cel

    environment = celpy.Environment()
    try:
        return bool(environment.program(environment.compile(rule)).evaluate({"self": json_to_cel(value)}))
    except (celpy.CELEvalError, celpy.CELParseError):
        not_checked["rules of CRDs in Kubernetes' own dialect of CEL"] += 1
        return None


def _dotted(path: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "object"
