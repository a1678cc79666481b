"""The loop that closes itself: what a recogniser gets wrong decides what it is taught next.

Evaluate → weights of the terms → synthesize → train → evaluate → gate, round by round. Steps that were done are
skipped, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.config import AblateConfig, AdaptConfig
from pipelines.evaluation.config import SILENCE, TestSetConfig
from pipelines.evaluation.evaluate import evaluate
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.formats import write_terms
from pipelines.lexicon.reweight import reweighted
from pipelines.lexicon.terms import open_lexicon, read_terms
from pipelines.release.config import ReleaseConfig
from pipelines.release.gate import read_sets
from pipelines.release.release import Release, release
from pipelines.speech.reweight import reweighted_accents
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
    release: Release

    @property
    def released(self) -> bool:
        return self.release.champion


def adapt(config: AdaptConfig, home: Path, narrator: Narrator) -> list[Round]:
    """Needs a running Ray. Returns the rounds that were made: fewer than asked for where the target was reached.

    A round is compared with the last one that was released, and the first with the start: what is worse than the
    champion that this loop made does not replace it.

    home: folder of the tracking and the registry.

    Raises `UserError` for a lexicon, model or set that will not do, before anything is made.
    """
    start = str(resolve_recogniser(config.start, home))
    sets = judged_sets(config, config.steering)
    read = read_sets(config.gate) + ([config.gate.term_set] if config.target_term_recall is not None else [])
    if missing := [name for name in read if name not in (*sets, SILENCE)]:
        raise UserError(f"the gate reads set {missing[0]!r}, which is none of the sets: {', '.join(sets)}")
    loop = _Loop(config, start, sets, home, narrator)
    with narrator.step("lexicon", "reading the terms") as progress:
        prepared(config.synthesis(loop.folder(1) / "speech", config.sizes, config.lexicon, config.seed + 1))
        progress(1, 1)
    make_tests(config, narrator)
    loop.judge(0, None, start)
    rounds: list[Round] = []
    for number in range(1, config.rounds + 1):
        released = [str(made.model) for made in rounds if made.released]
        rounds.append(loop.round(number, released[-1] if released else start))
        if loop.reached(rounds[-1].figures):
            break
    return rounds


@dataclass(frozen=True)
class _Loop:
    """What the rounds have in common."""

    config: AdaptConfig
    start: str
    sets: dict[str, TestSetConfig]
    home: Path
    narrator: Narrator

    def folder(self, number: int) -> Path:
        """Round 0 is where it starts."""
        return self.config.workdir / f"round-{number}"

    def round(self, number: int, before: str) -> Round:
        """before: the model that it must be better than."""
        config, folder = self.config, self.folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        told_by = (str(self.folder(number - 1) / "evaluation"), config.steering, config.weight_floor)
        terms = reweighted(
            read_terms(config.lexicon.path),
            open_lexicon(config.lexicon).taught,
            *told_by,
        )
        write_terms(str(folder / "lexicon.csv"), terms)
        speakers = reweighted_accents(config.speech, *told_by)
        lexicon = LexiconConfig(
            path=str(folder / "lexicon.csv"), take=config.lexicon.take, held_out=config.lexicon.held_out
        )
        with self.narrator.step(f"speech_{number}", f"round {number}: writing and speaking what was missed") as told:
            planned = config.model_copy(update={"speech": speakers})
            synthesize(planned.synthesis(folder / "speech", config.sizes, lexicon, config.seed + number), told)
        # From the start again, on the speech of all rounds so far: nothing is learnt in an order that harms it.
        speech = [self.folder(earlier) / "speech" for earlier in range(1, number + 1)]
        with self.narrator.step(f"training_{number}", f"round {number}: teaching it") as told:
            train(config.model(folder / "model", self.start, speech), self.home, told)
        model = trained_model(folder / "model")
        figures = self.judge(number, before, str(model))
        with self.narrator.step(f"release_{number}", f"round {number}: asking the gate") as told:
            judged = ReleaseConfig(evaluation=folder / "evaluation", model_name=config.model_name, gate=config.gate)
            made = release(judged, self.home, f"round {number}")
            told(1, 1)
        return Round(number, model, figures, folder / "evaluation" / "report.html", made)

    def judge(self, number: int, before: str | None, after: str) -> dict[str, Any]:
        """The figures of a round, on a page that links the one of the round before."""
        page = f"../../round-{number - 1}/evaluation/report.html"
        links = [{"text": f"Round {number - 1}", "href": page}] if number else []
        doing = f"round {number}: listening" if number else "listening to where it starts"
        with self.narrator.step(f"evaluation_{number}", doing) as progress:
            judged = self.config.evaluation(self.folder(number) / "evaluation", self.sets, before, after)
            return evaluate(judged, self.home, progress, links)

    def reached(self, figures: dict[str, Any]) -> bool:
        if self.config.target_term_recall is None:
            return False
        recall = figures[self.config.gate.term_set]["term_recall"]["after"]
        return recall is not None and bool(recall[1] >= self.config.target_term_recall)


def judged_sets(config: AdaptConfig | AblateConfig, steering: str | None = None) -> dict[str, TestSetConfig]:
    """What every model is judged on: the sets of the settings, or those that `make_tests` makes.

    steering: what the set made of `tests.validation` is called; without it, there is none.
    """
    if config.sets:
        return config.sets
    location = str(config.workdir / "tests")
    tested = [name for name, size in config.tests.model_dump().items() if name.startswith("test") and size]
    sets = {name: TestSetConfig(manifest=location, split=name, general=name == EVERYDAY_TEST) for name in tested}
    return sets | ({steering: TestSetConfig(manifest=location, split="validation")} if steering else {})


def make_tests(config: AdaptConfig | AblateConfig, narrator: Narrator) -> None:
    """The speech of the tests, once, where the settings name no sets."""
    if config.sets:
        return
    with narrator.step("tests", "writing and speaking the tests") as progress:
        synthesize(config.synthesis(config.workdir / "tests", config.tests, config.lexicon, config.seed), progress)
