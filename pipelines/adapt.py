"""The loop that closes itself: what a recogniser gets wrong decides what it is taught next.

Evaluate → weights of the terms → synthesize → train → evaluate → gate, round by round. Steps that were done are
skipped, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.config import AblateConfig, AdaptConfig
from pipelines.evaluation.config import SILENCE, EvaluationConfig, TestSetConfig
from pipelines.evaluation.evaluate import evaluate
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.formats import write_terms
from pipelines.lexicon.reweight import reweighted
from pipelines.lexicon.terms import open_lexicon, read_terms
from pipelines.release.config import ReleaseConfig
from pipelines.release.gate import Verdict, read_sets
from pipelines.release.release import release
from pipelines.synthesize import prepared, synthesize
from pipelines.training.train import train
from rayapp.asr.resolve import resolve_recogniser, trained_model
from rayapp.errors import UserError

EVERYDAY_TEST = "test_general"
"""Split of everyday sentences, by which forgetting is noticed."""


class Narrator(Protocol):
    """Tells a person which step is under way; see `rayapp.cli.output`."""

    def step(self, name: str, doing: str) -> Any:
        """A context manager whose value takes (done, total)."""
        ...


@dataclass(frozen=True)
class Round:
    """What one round came to."""

    number: int
    model: Path
    figures: dict[str, Any]
    report: Path
    version: str
    verdicts: list[Verdict]

    @property
    def released(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


def adapt(config: AdaptConfig, home: Path, narrator: Narrator) -> list[Round]:
    """Needs a running Ray. Returns the rounds that were made: fewer than asked for where the target was reached.

    home: folder of the tracking and the registry.

    Raises `UserError` for a lexicon, model or set that will not do, before anything is made.
    """
    start = str(resolve_recogniser(config.start, home))
    lexicon = config.lexicon
    with narrator.step("lexicon", "reading the terms") as progress:
        prepared(config.synthesis(_folder(config, 1) / "speech", config.sizes, lexicon, config.seed + 1))
        progress(1, 1)
    sets = config.sets or own_tests(config, narrator, config.steering)
    read = read_sets(config.gate) + ([config.gate.term_set] if config.target_term_recall is not None else [])
    if missing := [name for name in read if name not in (*sets, SILENCE)]:
        raise UserError(f"the gate reads set {missing[0]!r}, which is none of the sets: {', '.join(sets)}")
    _judge(config, 0, None, start, sets, home, narrator)
    rounds: list[Round] = []
    for number in range(1, config.rounds + 1):
        rounds.append(_round(config, number, start, sets, home, narrator))
        if _reached(config, rounds[-1].figures):
            break
    return rounds


def _round(
    config: AdaptConfig, number: int, start: str, sets: dict[str, TestSetConfig], home: Path, narrator: Narrator
) -> Round:
    folder = _folder(config, number)
    folder.mkdir(parents=True, exist_ok=True)
    terms = reweighted(
        read_terms(config.lexicon.path),
        open_lexicon(config.lexicon).taught,
        str(_folder(config, number - 1) / "evaluation"),
        config.steering,
        config.weight_floor,
    )
    write_terms(str(folder / "lexicon.csv"), terms)
    lexicon = LexiconConfig(
        path=str(folder / "lexicon.csv"), take=config.lexicon.take, held_out=config.lexicon.held_out
    )
    with narrator.step(f"speech_{number}", f"round {number}: writing and speaking what was missed") as progress:
        synthesize(config.synthesis(folder / "speech", config.sizes, lexicon, config.seed + number), progress)
    # From the start again, on the speech of all rounds so far: nothing is learnt in an order that harms it.
    speech = [_folder(config, earlier) / "speech" for earlier in range(1, number + 1)]
    with narrator.step(f"training_{number}", f"round {number}: teaching it") as progress:
        train(config.model(folder / "model", start, speech), home, progress)
    model = trained_model(folder / "model")
    figures = _judge(config, number, start, str(model), sets, home, narrator)
    with narrator.step(f"release_{number}", f"round {number}: asking the gate") as progress:
        judged = ReleaseConfig(evaluation=folder / "evaluation", model_name=config.model_name, gate=config.gate)
        version, verdicts = release(judged, home, f"round {number}")
        progress(1, 1)
    return Round(number, model, figures, folder / "evaluation" / "report.html", version, verdicts)


def own_tests(
    config: AdaptConfig | AblateConfig, narrator: Narrator, steering: str | None = None
) -> dict[str, TestSetConfig]:
    """Tests that are made once, and judge every model.

    steering: what the set made of `tests.validation` is called; without it, there is none.
    """
    location = config.workdir / "tests"
    with narrator.step("tests", "writing and speaking the tests") as progress:
        synthesize(config.synthesis(location, config.tests, config.lexicon, config.seed), progress)
    tested = [name for name, size in config.tests.model_dump().items() if name.startswith("test") and size]
    sets = {name: TestSetConfig(manifest=str(location), split=name, general=name == EVERYDAY_TEST) for name in tested}
    if steering:
        sets[steering] = TestSetConfig(manifest=str(location), split="validation")
    return sets


def _judge(
    config: AdaptConfig,
    number: int,
    before: str | None,
    after: str,
    sets: dict[str, TestSetConfig],
    home: Path,
    narrator: Narrator,
) -> dict[str, Any]:
    """The figures of a round, on a page that links the one of the round before."""
    doing = f"round {number}: listening" if number else "listening to where it starts"
    links = (
        [{"text": f"Round {number - 1}", "href": f"../../round-{number - 1}/evaluation/report.html"}] if number else []
    )
    with narrator.step(f"evaluation_{number}", doing) as progress:
        judged = EvaluationConfig(
            output=_folder(config, number) / "evaluation",
            sets=sets,
            before=before,
            after=after,
            heard=str(config.workdir / "heard"),
            workers=config.training.workers,
            gpus_per_worker=config.training.gpus_per_worker,
            seed=config.seed,
        )
        return evaluate(judged, home, progress, links)


def _reached(config: AdaptConfig, figures: dict[str, Any]) -> bool:
    if config.target_term_recall is None:
        return False
    recall = figures[config.gate.term_set]["term_recall"]["after"]
    return recall is not None and bool(recall[1] >= config.target_term_recall)


def _folder(config: AdaptConfig, number: int) -> Path:
    return config.workdir / f"round-{number}"
