"""From a lexicon to a manifest: the way of the data up to training, as one list."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.augmentation.microphone import Record
from pipelines.augmentation.noise import AddNoise
from pipelines.augmentation.room import PlayInRoom
from pipelines.config import SynthesisConfig
from pipelines.lexicon.terms import open_lexicon
from pipelines.manifests.write import gather_shards, manifest_table, write_card
from pipelines.plan import CLINICAL, EVERYDAY, plan_slots
from pipelines.speech.speak import Speak, check_pronounceable, check_voices
from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.write import WriteTranscript
from rayapp.config import save_config
from rayapp.execution import Group, Summary, run_plan
from rayapp.ids import content_id
from rayapp.records import slots_to_table
from rayapp.storage import key_of, published_folder, step_key

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


def groups(config: SynthesisConfig) -> list[Group]:
    """The stages, in order. Each group runs in workers of its own, all at the same time."""
    return [
        Group([partial(WriteTranscript, config.transcripts), Speak], workers=config.speech.workers),
        Group(
            [
                partial(PlayInRoom, config.augmentation.room),
                AddNoise,
                partial(Record, config.augmentation.microphone),
            ],
            workers=config.augmentation.workers,
        ),
    ]


def _key(config: SynthesisConfig, plan: pa.Table) -> str:
    """Changes with the settings, with what the lexicon and the grammar hold, and with the stages' versions."""
    versions = [(stage.name, stage.version) for group in groups(config) for stage in map(_class_of, group.stages)]
    grammars = [repr(load_grammar(style)) for style in (CLINICAL, EVERYDAY)]
    return content_id(step_key(config), plan.to_pylist(), grammars, versions)


def _class_of(stage: Any) -> Any:
    """Of a stage class, or of a `partial` that makes one."""
    return getattr(stage, "func", stage)


def synthesize(config: SynthesisConfig, progress: Progress = lambda done, total: None) -> Summary | None:
    """Make the manifest at `config.output`; None where it is there already. Needs a running Ray.

    An interrupted run goes on where it stopped.

    Raises `UserError` for a lexicon, voice or folder that will not do, before anything is made.
    """
    lexicon = open_lexicon(config.lexicon)
    plan = slots_to_table(plan_slots(config, lexicon))
    key = _key(config, plan)
    if key_of(config.output) == key:
        return None
    check_pronounceable([*lexicon.taught, *lexicon.held_out])
    voices = config.speech.voices
    check_voices(sorted({f"{a}+m3" for a in voices.train_accents + voices.test_accents}))
    speakers = voices.train_speakers + voices.validation_speakers + voices.test_speakers
    check_voices([f"en-us+{s}" for s in speakers + voices.other_synthesiser_speakers])

    with published_folder(config.output, key, resume=True) as folder:
        save_config(config, folder)
        pq.write_table(plan, folder / "plan.parquet")
        blocks = folder.absolute() / "blocks"
        for summary in run_plan(
            plan, groups(config), blocks, manifest_table, max_rejected_share=config.manifests.max_rejected_share
        ):
            progress(summary.committed, plan.num_rows)
        gather_shards(blocks, folder, config.manifests.shard_mb)
        write_card(folder, config.output.name)
    return summary
