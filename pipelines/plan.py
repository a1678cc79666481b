"""The plan of a run: one slot for each utterance to be made, before anything is made.

A slot fixes terms, pattern, voice, SNR and seed. So a run can be counted beforehand, goes on after a
kill, and gives the same rows on one core or a hundred.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.config import SynthesisConfig
from pipelines.lexicon.terms import Lexicon
from pipelines.transcripts.grammar import Pattern, load_grammar
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.records import Slot, Term

CLINICAL, EVERYDAY = "clinical_en", "everyday_en"


def plan_slots(config: SynthesisConfig, lexicon: Lexicon) -> list[Slot]:
    """All slots of a run, split by split.

    Raises `UserError` for a split that has a size but neither terms nor patterns.
    """
    sizes, voices = config.manifests.sizes, config.speech.voices
    grammars = [
        load_grammar(style, config.transcripts.max_patterns, config.transcripts.max_alternatives)
        for style in (CLINICAL, EVERYDAY)
    ]
    (trained, held_out), (everyday, everyday_held_out) = (
        grammar.split_patterns(config.transcripts.held_out_patterns) for grammar in grammars
    )
    lists = grammars[0].lists()
    trainers = _voices(voices.train_accents, voices.train_speakers)
    validators = _voices(voices.train_accents, voices.validation_speakers)
    testers = _voices(voices.test_accents, voices.test_speakers)
    klatt = _voices(voices.test_accents, voices.other_synthesiser_speakers)
    taught, unseen = lexicon
    weight = sum(term.weight for term in taught)

    def clinical(
        split: str, count: int, terms: Sequence[Term], patterns: Sequence[Pattern], speakers: Sequence[str]
    ) -> Iterator[Slot]:
        by_category: dict[str, list[Term]] = {}
        for term in terms:
            by_category.setdefault(term.category, []).append(term)
        for index, (term, pattern) in enumerate(_sentences(terms, patterns, count, split, config.seed)):
            yield _slot(config, split, CLINICAL, pattern, term, speakers, index, by_category[term.category])

    def chat(split: str, count: int, patterns: Sequence[Pattern], speakers: Sequence[str]) -> Iterator[Slot]:
        for index in range(count):
            yield _slot(config, split, EVERYDAY, patterns[index % len(patterns)], None, speakers, index)

    return [
        *clinical("train", round(sizes.train_per_term * weight), taught, trained + lists, trainers),
        *chat("train", sizes.train_everyday, everyday, trainers),
        *clinical("validation", sizes.validation, taught, trained, validators),
        *chat("validation", sizes.validation_everyday, everyday, validators),
        *clinical("test", sizes.test, taught, trained, testers),
        *clinical("test_unseen_patterns", sizes.test_unseen_patterns, taught, held_out, testers),
        *clinical("test_unseen_terms", sizes.test_unseen_terms, unseen, trained, testers),
        *clinical("test_other_synthesiser", sizes.test_other_synthesiser, taught, trained, klatt),
        *chat("test_general", sizes.test_general, everyday + everyday_held_out, testers),
    ]


def _sentences(
    terms: Sequence[Term], patterns: Sequence[Pattern], count: int, split: str, seed: int
) -> list[tuple[Term, Pattern]]:
    """`count` pairs: each term gets its share by weight, each pattern of its category about the same."""
    if not count:
        return []
    if not terms:
        raise UserError(f"split {split} needs terms; give the lexicon a held_out above 0")
    if not patterns:
        raise UserError(f"split {split} needs sentence patterns; set transcripts.held_out_patterns above 0")
    rng = np.random.default_rng([seed, int(content_id("sentences", split), 16)])
    queues = {}
    for category, count_there in sorted(Counter(term.category for term in terms).items()):
        fitting = [p for p in patterns if p.companions < count_there]  # enough terms for the list
        mine = [p for p in fitting if p.category == category] or fitting
        queues[category] = itertools.cycle(rng.permutation(np.array(mine, dtype=object)).tolist())
    edges = np.cumsum([term.weight for term in terms]) / sum(term.weight for term in terms)
    order = np.searchsorted(edges, (np.arange(count) + 0.5) / count)
    return [(terms[i], next(queues[terms[i].category])) for i in order]


def _slot(
    config: SynthesisConfig,
    split: str,
    style: str,
    pattern: Pattern,
    term: Term | None,
    voices: Sequence[str],
    index: int,
    terms: Sequence[Term] = (),
) -> Slot:
    """terms: of the category of `term`; its companions are drawn from them."""
    slot_id = content_id("slot", config.seed, split, style, term and term.text, index)
    rng = np.random.default_rng(int(slot_id, 16))
    speech, noise = config.speech, config.augmentation.noise
    voice = voices[int(rng.integers(len(voices)))]
    return Slot(
        slot_id=slot_id,
        split=split,
        style=style,
        prompt=pattern.pattern_id,
        term=term,
        engine="espeak",
        voice=voice,
        accent=voice.partition("+")[0],
        rate_wpm=int(rng.integers(speech.min_rate_wpm, speech.max_rate_wpm + 1)),
        pitch=int(rng.integers(speech.min_pitch, speech.max_pitch + 1)),
        snr_db=round(float(rng.uniform(noise.min_snr_db, noise.max_snr_db)), 2),
        seed=int(slot_id, 16) >> 1,  # fits a signed 64-bit column
        companions=_companions(term, terms, pattern.companions, rng),
    )


def _companions(term: Term | None, terms: Sequence[Term], count: int, rng: np.random.Generator) -> tuple[Term, ...]:
    if not count:
        return ()
    others = [other for other in terms if other != term]
    return tuple(others[i] for i in rng.permutation(len(others))[:count])


def _voices(accents: Sequence[str], speakers: Sequence[str]) -> list[str]:
    return [f"{accent}+{speaker}" for accent in accents for speaker in speakers]
