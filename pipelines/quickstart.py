"""The whole way of the data on one machine, as one list; each step is the one that a cluster runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.adapt import EVERYDAY_TEST, Narrator
from pipelines.config import QuickstartConfig
from pipelines.evaluation.config import EvaluationConfig, TestSetConfig
from pipelines.evaluation.evaluate import evaluate
from pipelines.release.config import ReleaseConfig
from pipelines.release.gate import Verdict
from pipelines.release.release import release
from pipelines.synthesize import prepared, synthesize
from pipelines.training.train import train
from rayapp.asr.resolve import trained_model
from rayapp.config import config_fingerprint
from rayapp.ids import content_id
from rayapp.manifest import Manifest


@dataclass
class Outcome:
    """What the steps up to release came to."""

    figures: dict[str, Any]
    training: dict[str, Any]
    version: str
    verdicts: list[Verdict]
    medical: Path
    report: Path
    home: Path
    """Folder of the tracking file and the registry."""


def quickstart(config: QuickstartConfig, cache: Path, narrator: Narrator) -> Outcome:
    """From the lexicon to a released model; needs a running Ray. Steps that were done are skipped.

    cache: the base model and the speech it learnt from are kept there, by what they were made with.
    """
    work = config.workdir
    base = cache / "base" / content_id(
        config_fingerprint(config.everyday_speech(Path())), config_fingerprint(config.base_training)
    )  # fmt: skip
    everyday, base_model = base / "speech", base / "model"
    medical, adapted, evaluation = work / "medical", work / "adapted", work / "evaluation"
    home = work / "tracking"

    with narrator.step("lexicon", "reading the terms") as progress:
        prepared(config.medical_speech(medical))  # what cannot be made is said before anything is made
        progress(1, 1)
    with narrator.step("everyday_speech", "writing and speaking everyday sentences") as progress:
        synthesize(config.everyday_speech(everyday), progress)
    with narrator.step("medical_speech", "writing and speaking sentences around the terms") as progress:
        synthesize(config.medical_speech(medical), progress)
    with narrator.step("base_model", "teaching a new model everyday speech") as progress:
        train(config.base_model(base_model, everyday), home, progress)
    with narrator.step("adaptation", "teaching it the terms") as progress:
        training = train(config.adapted_model(adapted, trained_model(base_model), everyday, medical), home, progress)
    with narrator.step("evaluation", "listening before and after") as progress:
        figures = evaluate(
            EvaluationConfig(
                output=evaluation,
                sets={
                    split: TestSetConfig(manifest=str(medical), split=split, general=split == EVERYDAY_TEST)
                    for split in Manifest(medical).splits
                    if split.startswith("test")
                },
                before=str(trained_model(base_model)),
                after=str(trained_model(adapted)),
                heard=str(work / "heard"),
                workers=config.training.workers,
                gpus_per_worker=config.training.gpus_per_worker,
                gpu_type=config.training.gpu_type,
            ),
            home,
            progress,
        )
    with narrator.step("release", "asking the gate") as progress:
        released = release(
            ReleaseConfig(evaluation=evaluation, model_name=config.serving.model_name, gate=config.gate), home
        )
        progress(1, 1)
    return Outcome(figures, training, released.version, released.verdicts, medical, evaluation / "report.html", home)
