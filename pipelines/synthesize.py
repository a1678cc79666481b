"""From a lexicon to a manifest: the way of the data up to training, as one list."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.augmentation.chain import chain
from pipelines.augmentation.chain import check as check_augmentation
from pipelines.config import SynthesisConfig
from pipelines.lexicon.terms import open_lexicon
from pipelines.manifests.card import write_card
from pipelines.manifests.gather import gather_shards
from pipelines.manifests.rows import manifest_table
from pipelines.plan import Planner
from pipelines.rounds import BLOCKS, Progress, Result, Rounds
from pipelines.speech import espeak
from pipelines.speech.cast import candidates
from pipelines.speech.config import SpeechConfig, VoicesConfig
from pipelines.speech.speak import Speak, check_terms, check_voices
from pipelines.transcripts.generator import Generator
from pipelines.transcripts.generators import make_generator
from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.judge import Judge, JudgeTranscript
from pipelines.verification.verify import resolved
from pipelines.verification.verify import stages as verification_stages
from rayapp.execution import AnyGroup, Group
from rayapp.ids import content_id, path_id
from rayapp.ray_session import available_cpus
from rayapp.records import Audio
from rayapp.stage import stage_class
from rayapp.storage import finish_publishing, join, key_of, name_of, published_location, require_replaceable, write_file

SUMMARY = "summary.json"
"""What a run took, left in its manifest: `rayapp plan` reads rates from it."""


def groups(config: SynthesisConfig) -> list[AnyGroup]:
    """The stages, in order. Each group runs in workers of its own, all at the same time.

    What runs on a CPU shares its workers: an utterance then goes all the way in one process. A model that wants a
    GPU makes a group of its own.
    """
    transforms = chain(config.augmentation, partial(_talk, config.speech.voices))
    parts = [*_writers(config), *_speakers(config), *transforms, *_listeners(config)]
    taken = sum(part.workers * part.resources.cpus for part in parts if isinstance(part, AnyGroup))
    shared = sum(1 for is_group, _ in groupby(parts, _is_group) if not is_group)
    workers = config.workers or max(1, int(available_cpus() - taken) // max(shared, 1))
    return [
        group
        for is_group, members in groupby(parts, _is_group)
        for group in (members if is_group else [Group(list(members), workers)])
    ]


def _is_group(part: Any) -> bool:
    return isinstance(part, AnyGroup)


def _writers(config: SynthesisConfig) -> list[Any]:
    judge = config.transcripts.judge
    judges = [Group([partial(JudgeTranscript, judge)])] if judge else []  # waits for its server while others work
    return [*_generator(config).steps(), *judges]


def _generator(config: SynthesisConfig) -> Generator:
    return make_generator(config.transcripts, open_lexicon(config.lexicon).held_out)


def _speakers(config: SynthesisConfig) -> list[Any]:
    coqui = config.speech.coqui
    speak = partial(Speak, config.speech)
    if config.speech.engine != "coqui" or not coqui.gpus:
        return [speak]
    return [Group([speak], coqui.workers, coqui.gpus, coqui.gpu_type)]


def _talk(voices: VoicesConfig, side: str, rng: np.random.Generator) -> Audio:
    """Somebody in the background who says something, in a voice that the side may hear: what babble is made of."""
    grammar, pool = load_grammar("everyday_en"), candidates(SpeechConfig(voices=voices), side)
    said = grammar.write(str(rng.choice(list(grammar.patterns))), None, rng).spoken
    voice = pool[int(rng.integers(len(pool)))].name
    return espeak.speak(said, voice, rate_wpm=int(rng.integers(140, 200)), pitch=int(rng.integers(30, 70))).audio


def _listeners(config: SynthesisConfig) -> list[Any]:
    stages = verification_stages(config.verification, espeak.phonemes_of, espeak.ACCENT_OF)
    settings = config.verification
    if not settings.gpus or not stages:
        return stages
    return [Group(stages, settings.workers, settings.gpus, settings.gpu_type)]


def synthesize(config: SynthesisConfig, progress: Progress = lambda done, total, note: None) -> Result | None:
    """Make the manifest at `config.output`; None where it is there already. Needs a running Ray.

    A round makes the slots of its plan; what came to nothing is planned again, in another round, up to a limit. An
    interrupted run goes on where it stopped.

    Raises `UserError` for a lexicon, voice or folder that will not do, before anything is made; and when more than
    `config.manifests.max_rejected_share` of the slots were rejected, naming the leading reason.
    """
    key = run_key(config)
    if key_of(config.output) == key or finish_publishing(config.output, key, [BLOCKS]):
        return None
    config, planner = prepared(config)
    with published_location(config.output, key, resume=True, scratch=[BLOCKS]) as folder:
        write_file(join(folder, "config.json"), (config.model_dump_json(indent=2) + "\n").encode())
        rounds = Rounds(folder, planner, config.transcripts.checks, config.transcripts.rounds)
        result = rounds.fill(groups(config), manifest_table, config.manifests.max_rejected_share, progress)
        gather_shards(rounds.blocks, folder, config.manifests.shard_mb, rounds.set_aside)
        write_file(join(folder, SUMMARY), json.dumps(result.as_json(), indent=2).encode())
        cloned_voices = config.speech.engine == "coqui" and config.speech.coqui.reference_clips is not None
        write_card(folder, name_of(config.output), [config.manifests.licence], cloned_voices=cloned_voices)
    return result


def prepared(config: SynthesisConfig) -> tuple[SynthesisConfig, Planner]:
    """The settings with every model's name turned into a path, fetched once by the driver, and the planner.

    Raises `UserError` for what would fail later: a term nobody can say, a voice, recording or server that is not there.
    """
    config = _located(config)
    lexicon = open_lexicon(config.lexicon)
    planner = Planner(config, lexicon)
    require_replaceable(config.output)
    check_terms(config.speech, [*lexicon.taught, *lexicon.held_out])
    check_voices(config.speech)
    check_augmentation(config.augmentation)
    _generator(config).check()
    if config.transcripts.judge:
        Judge(config.transcripts.judge).check()
    groups(config)  # a recogniser, an adapter or a number of GPUs that will not do is found here
    return config, planner


def _located(config: SynthesisConfig) -> SynthesisConfig:
    """The same settings with paths in place of the names of models that this machine reads."""
    speech = config.speech
    if speech.engine == "coqui":
        from pipelines.speech.coqui.files import resolve

        speech = speech.model_copy(update={"coqui": resolve(speech.coqui)})
    return config.model_copy(update={"speech": speech, "verification": resolved(config.verification)})


def run_key(config: SynthesisConfig) -> str:
    """Changes with what is made: the settings, the stages' versions, and what lexicon, styles and models hold.

    It does not change with where it is made and by how many.
    """
    settings = config.model_dump(
        mode="json",
        exclude={
            "output": True,
            "workers": True,
            "prices": True,
            "transcripts": {
                "vllm": {"workers", "gpus", "gpu_type", "batch_size"},
                "openai": {"concurrency", "requests_per_minute"},
            },
            "speech": {"coqui": {"workers", "gpus", "gpu_type"}},
            "augmentation": {"cuda"},
            "verification": {"workers", "gpus", "gpu_type"},
            "manifests": {"licence"},
        },
    )
    steps = [step for group in groups(config) for step in (group.stages if isinstance(group, Group) else [group])]
    versions = [(step.name, step.version) for step in map(stage_class, steps)]
    terms = [asdict(term) for terms in open_lexicon(config.lexicon) for term in terms]
    located = _located(config)
    recogniser = located.verification.recogniser
    heard_by = path_id(Path(recogniser)) if config.verification.enabled and recogniser else None
    return content_id(
        settings,
        terms,
        _generator(config).identity(),
        versions,
        heard_by,
        check_augmentation(config.augmentation),
        *_voice_files(located.speech),
    )


def _voice_files(config: SpeechConfig) -> list[str]:
    """Of what a neural voice comes from: a model's folder, its vocoder's, and the recordings that it clones."""
    if config.engine != "coqui":
        return []
    models = [Path(model) for model in (config.coqui.model, config.coqui.vocoder) if model]
    folders = [*(model if model.is_dir() else model.parent for model in models), config.coqui.reference_clips]
    return [path_id(folder) for folder in folders if folder and folder.exists()]  # what is not is refused later
