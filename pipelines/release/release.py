"""Register an evaluated model, and make it the champion if the gate says so; or take that back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.release.config import ReleaseConfig
from pipelines.release.gate import Verdict, judge
from rayapp.errors import UserError
from rayapp.ids import path_id
from rayapp.registry import CHALLENGER, Registry
from rayapp.storage import require_complete, step_key


def release(config: ReleaseConfig, home: Path, why: str = "") -> tuple[str, list[Verdict]]:
    """Returns the version and the verdicts. The version is the challenger; `champion` moves only when all passed.

    home: folder of the registry, see `rayapp.tracking`.
    why: kept with the decision, beside the verdicts.

    Raises `UserError` where the model's file is gone, or is another than the evaluation judged.
    """
    require_complete(config.evaluation, "evaluation")
    models = config.evaluation / "models.json"
    if not models.is_file():
        raise UserError(f"evaluation {config.evaluation} does not say which model it judged: evaluate again")
    judged: dict[str, str] = json.loads(models.read_text())["after"]
    model = Path(judged["path"])
    if not model.exists() or path_id(model) != judged["model_id"]:
        raise UserError(f"{model} is not the model that {config.evaluation} judged: evaluate it again, then release it")
    figures: dict[str, Any] = json.loads((config.evaluation / "figures.json").read_text())
    verdicts = judge(config.gate, figures)
    registry = Registry(home)
    version = registry.publish(
        config.model_name,
        model,
        figures=headline(figures),
        verdicts=[asdict(verdict) for verdict in verdicts],
        key=step_key(config, config.evaluation),
        evaluation=config.evaluation,
    )
    failed = [verdict for verdict in verdicts if not verdict.passed]
    reasons = "; ".join(f"{verdict.rule}: {verdict.figure}" for verdict in failed or verdicts)
    reason = f"{why}: {reasons}" if why else reasons
    if failed:
        if registry.champion(config.model_name) != version:
            registry.promote(config.model_name, version, CHALLENGER)
        registry.refuse(config.model_name, version, reason)
    else:
        registry.crown(config.model_name, version, reason)
    return version, verdicts


def headline(figures: Mapping[str, Any]) -> dict[str, float]:
    """One number per set and figure, for the registry's list."""
    return {
        f"{name}.{metric}": round(values["after"][0], 4)
        for name, metrics in figures.items()
        for metric, values in metrics.items()
        if isinstance(values, dict) and values.get("after") is not None
    }
