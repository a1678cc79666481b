"""Register an evaluated model, and make it the champion if the gate says so; or take that back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.release.config import ReleaseConfig
from pipelines.release.gate import Verdict, judge
from rayapp.errors import UserError
from rayapp.ids import path_id
from rayapp.registry import CHALLENGER, Registry
from rayapp.storage import require_complete, step_key


@dataclass(frozen=True)
class Release:
    """What the gate said of one version of a model."""

    version: str
    verdicts: list[Verdict]
    champion: bool
    """Whether it is the champion now. One that passed and was rolled back since is not made so again."""
    remark: str = ""
    """What should be known besides: it was not compared with the champion, say."""

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


def release(config: ReleaseConfig, home: Path, why: str = "") -> Release:
    """The version is the challenger; `champion` moves only when all verdicts passed.

    home: folder of the registry, see `rayapp.tracking`.
    why: kept with the decision, beside the verdicts.

    Raises `UserError` where the model's file is gone, or is another than the evaluation judged.
    """
    require_complete(config.evaluation, "evaluation")
    models = config.evaluation / "models.json"
    if not models.is_file():
        raise UserError(f"evaluation {config.evaluation} does not say which model it judged: evaluate again")
    compared: dict[str, Any] = json.loads(models.read_text())
    judged = compared["after"]
    model = Path(judged["path"])
    if not model.exists() or path_id(model) != judged["model_id"]:
        raise UserError(f"{model} is not the model that {config.evaluation} judged: evaluate it again, then release it")
    figures: dict[str, Any] = json.loads((config.evaluation / "figures.json").read_text())
    verdicts = judge(config.gate, figures)
    registry = Registry(home)
    remark = _remark(registry, config.model_name, compared)
    version = registry.publish(
        config.model_name,
        model,
        model_id=judged["model_id"],
        figures=headline(figures),
        verdicts=[asdict(verdict) for verdict in verdicts],
        key=step_key(config, config.evaluation),
        evaluation=config.evaluation,
    )
    passed = all(verdict.passed for verdict in verdicts)
    reasons = "; ".join(f"{v.rule}: {v.figure}" for v in verdicts if v.passed == passed)
    reason = ": ".join(part for part in (why, remark, reasons) if part)
    if passed:
        registry.crown(config.model_name, version, reason)
    else:
        if registry.champion(config.model_name) != version:
            registry.promote(config.model_name, version, CHALLENGER)
        registry.refuse(config.model_name, version, reason)
    return Release(version, verdicts, registry.champion(config.model_name) == version, remark)


def _remark(registry: Registry, name: str, compared: Mapping[str, Any]) -> str:
    """Empty where the model was compared with the champion, is the champion, or there is none that is known."""
    champion = registry.champion_model(name)
    if (
        champion is None
        or not champion.model_id
        or champion.model_id in [model["model_id"] for model in compared.values() if model]
    ):
        return ""
    before = compared["before"]["path"] if compared.get("before") else "nothing"
    return f"compared with {before}, not with the champion, version {champion.version}"


def headline(figures: Mapping[str, Any]) -> dict[str, float]:
    """One number per set and figure, for the registry's list."""
    return {
        f"{name}.{metric}": round(values["after"][0], 4)
        for name, metrics in figures.items()
        for metric, values in metrics.items()
        if isinstance(values, dict) and values.get("after") is not None
    }
