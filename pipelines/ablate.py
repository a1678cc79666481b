"""What the speech is worth: the same training on more and less of it, and on speech that was made otherwise.

Every point is a synthesis, a training and an evaluation; points that were done are not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.adapt import Narrator, judged_sets, make_tests
from pipelines.config import AblateConfig
from pipelines.evaluation.config import TestSetConfig
from pipelines.evaluation.curves import Point, write_curves
from pipelines.evaluation.evaluate import evaluate
from pipelines.synthesize import synthesize
from pipelines.training.train import train
from rayapp.asr.resolve import resolve_recogniser, trained_model
from rayapp.config import config_fingerprint
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.manifest import Manifest
from rayapp.ray_session import require_room


class _Variant(NamedTuple):
    """One way to make the speech."""

    axis: str
    label: str
    config: AblateConfig

    @property
    def name(self) -> str:
        """Alike for variants that come to the same speech."""
        changing = ("sizes", "verification", "augmentation")
        return content_id(*(config_fingerprint(getattr(self.config, name)) for name in changing))


@dataclass(frozen=True)
class Ablation:
    """What all points came to."""

    points: list[Point]
    report: Path


def ablate(config: AblateConfig, home: Path, narrator: Narrator) -> Ablation:
    """Needs a running Ray. Writes `ablation.html`, `.md` and `.json` into the working folder.

    home: folder of the tracking.

    Raises `UserError` for settings that will not do, and for a set of terms that is not judged.
    """
    start = str(resolve_recogniser(config.start, home).absolute())
    # The tasks of points that are made side by side start in folders of their own.
    config, home = config.model_copy(update={"workdir": config.workdir.absolute()}), home.absolute()
    sets = judged_sets(config)
    if config.term_set not in sets:
        raise UserError(f"term_set is {config.term_set!r}, which is none of the sets: {', '.join(sets)}")
    variants = list(_variants(config))
    distinct = list({variant.name: variant for variant in variants}.values())
    needed = config.parallel * config.training.workers
    require_room(needed, config.parallel * config.training.gpus_per_worker, f"lower parallel ({config.parallel})")
    make_tests(config, narrator)
    with narrator.step("start", "listening to where it starts") as progress:
        evaluate(config.evaluation(config.workdir / "start", sets, None, start), home, progress)
    measure = partial(_measure, start=start, sets=sets, home=home)
    if config.parallel > 1:
        found = _side_by_side(distinct, measure, config.parallel, narrator)
    else:
        found = _in_turn(distinct, measure, narrator)
    points = [_point(variant, found[variant.name], config) for variant in variants]
    report = write_curves(config.workdir, points, {"start": start, "term_set": config.term_set})
    return Ablation(points, report)


def _variants(config: AblateConfig) -> Iterator[_Variant]:
    for size in config.train_per_term:
        sizes = config.sizes.model_copy(update={"train_per_term": size})
        yield _Variant("hours", f"{size} per term", config.model_copy(update={"sizes": sizes}))
    for threshold in config.max_rest_wer:
        verification = config.verification.model_copy(update={"max_rest_wer": threshold})
        yield _Variant("filter", f"{threshold:g}", config.model_copy(update={"verification": verification}))
    if config.augmentations:
        whole = config.augmentation.chain
        chains = {"all": whole} | {f"no {name}": tuple(n for n in whole if n != name) for name in whole} | {"none": ()}
        for label, chain in chains.items():
            augmentation = config.augmentation.model_copy(update={"chain": chain})
            yield _Variant("augmentation", label, config.model_copy(update={"augmentation": augmentation}))


def _in_turn(
    variants: Sequence[_Variant], measure: Callable[..., dict[str, Any]], narrator: Narrator
) -> dict[str, dict[str, Any]]:
    found = {}
    for number, variant in enumerate(variants, start=1):
        doing = f"point {number} of {len(variants)}: {variant.axis} {variant.label}"
        with narrator.step(f"point_{number}", doing) as progress:
            found[variant.name] = measure(variant, progress=progress)
    return found


def _side_by_side(
    variants: Sequence[_Variant], measure: Callable[..., dict[str, Any]], parallel: int, narrator: Narrator
) -> dict[str, dict[str, Any]]:
    """Each point is driven by a task of its own, which waits for its workers most of the time."""
    import ray

    point = ray.remote(num_cpus=0)(lambda variant: measure(variant))
    waiting, found = list(variants), dict[str, dict[str, Any]]()
    running: dict[Any, _Variant] = {}
    with narrator.step("points", f"{len(variants)} points, {parallel} at a time") as progress:
        while waiting or running:
            while waiting and len(running) < parallel:
                variant = waiting.pop(0)
                running[point.remote(variant)] = variant
            (done,), _ = ray.wait(list(running), num_returns=1)
            found[running.pop(done).name] = ray.get(done)
            progress(len(found), len(variants))
    return found


def _measure(
    variant: _Variant,
    start: str,
    sets: Mapping[str, TestSetConfig],
    home: Path,
    progress: Any = lambda *told: None,
) -> dict[str, Any]:
    """Figures of one point, with the hours that it was trained on."""
    config, folder = variant.config, variant.config.workdir / "points" / variant.name
    synthesize(config.synthesis(folder / "speech", config.sizes, config.lexicon, config.seed + 1), progress)
    train(config.model(folder / "model", start, [folder / "speech"]), home, progress)
    trained = str(trained_model(folder / "model"))
    figures = evaluate(config.evaluation(folder / "evaluation", sets, start, trained), home, progress)
    speech = Manifest(folder / "speech")
    return {"hours": speech.hours("train"), "utterances": speech.count("train"), "figures": figures}


def _point(variant: _Variant, found: Mapping[str, Any], config: AblateConfig) -> Point:
    figures = found["figures"]
    general = next((name for name, of in figures.items() if of["general"]), None)
    return Point(
        axis=variant.axis,
        label=variant.label,
        hours=round(found["hours"], 4),
        utterances=found["utterances"],
        term_recall=figures[config.term_set]["term_recall"]["after"],
        wer=figures[config.term_set]["wer"]["after"],
        general_wer=figures[general]["wer"]["after"] if general else None,
        report=f"points/{variant.name}/evaluation/report.html",
    )
