"""The plan of a run: one slot for each utterance to be made, before anything is made.

A slot fixes terms, pattern, voices, SNR and seed. So a run can be counted beforehand, goes on after a
kill, and gives the same rows on one core or a hundred.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.config import SynthesisConfig
from pipelines.lexicon.terms import Lexicon
from pipelines.speech.cast import Candidate, candidates
from pipelines.transcripts.generator import Style
from pipelines.transcripts.grammar import Pattern
from pipelines.transcripts.styles import everyday_style, term_styles
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.records import Slot, Term, Voice

_CONTRAST_EVERY = 4
"""One sentence in so many of a term that is mistaken for another has both."""


class _Part(NamedTuple):
    """What one split has of one style."""

    split: str
    style: Style
    size: int
    patterns: Sequence[Pattern]
    terms: Sequence[Term] = ()
    """None for everyday speech."""
    contrasts: Sequence[Pattern] = ()
    """Lists of two terms, in which a term is said beside one that it is mistaken for."""


class Planner:
    """Plans the rounds of a run.

    Raises `UserError` for a split that has a size but neither terms nor patterns nor voices.
    """

    def __init__(self, config: SynthesisConfig, lexicon: Lexicon) -> None:
        self.config = config
        self.parts = list(_parts(config, lexicon))
        self._pools: dict[tuple[str, str], list[Candidate]] = {}
        for part in self.parts:
            if part.size:
                self._pool(part.split, part.style.language)

    @property
    def slots(self) -> int:
        """How many the first round has."""
        return sum(part.size for part in self.parts)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many slots each split has of each style."""
        counts: dict[str, dict[str, int]] = {}
        for part in self.parts:
            if part.size:
                counts.setdefault(part.split, {})[part.style.name] = part.size
        return counts

    def first(self) -> Iterator[Slot]:
        """All slots of the first round, split by split."""
        for part in self.parts:
            if part.terms:
                by_category = _by_category(part.terms)
                for index, (term, pattern) in enumerate(_sentences(part, self.config.seed)):
                    slot_id = content_id("slot", self.config.seed, part.split, part.style.name, term.text, index)
                    rivals = _rivals(part, term, index)
                    if rivals:
                        pairs = [p for p in part.contrasts if p.category in (None, term.category)] or part.contrasts
                        pattern = pairs[index // _CONTRAST_EVERY % len(pairs)]
                    yield self._slot(slot_id, part, pattern, term, rivals or by_category[term.category])
            else:
                for index in range(part.size):
                    slot_id = content_id("slot", self.config.seed, part.split, part.style.name, None, index)
                    yield self._slot(slot_id, part, part.patterns[index % len(part.patterns)])

    def again(self, short: Iterable[Slot], number: int) -> Iterator[Slot]:
        """Slots in place of those that came to nothing, for round `number`: other sentences, voices and rooms."""
        parts = {(part.split, part.style.name, bool(part.terms)): part for part in self.parts}
        for slot in short:
            part, term = parts[slot.split, slot.style, slot.term is not None], slot.term
            slot_id = content_id("again", slot.slot_id, number)
            rng = np.random.default_rng([int(slot_id, 16), 1])
            by_category = _by_category(part.terms)
            fitting = _fitting(part.patterns, term, by_category) if term else part.patterns
            pattern = fitting[int(rng.integers(len(fitting)))]
            yield self._slot(slot_id, part, pattern, term, by_category[term.category] if term else ())

    def _slot(
        self, slot_id: str, part: _Part, pattern: Pattern, term: Term | None = None, terms: Sequence[Term] = ()
    ) -> Slot:
        """terms: of the category of `term`; its companions are drawn from them."""
        rng = np.random.default_rng(int(slot_id, 16))
        noise = self.config.augmentation.noise
        first = self._person(part, rng, ())
        snr_db = round(float(rng.uniform(noise.min_snr_db, noise.max_snr_db)), 2)
        companions = _companions(term, terms, pattern.companions, rng)
        return Slot(
            slot_id=slot_id,
            split=part.split,
            style=part.style.name,
            prompt=pattern.pattern_id,
            term=term,
            cast=self._cast(part, term, first, rng),
            snr_db=snr_db,
            seed=int(slot_id, 16) >> 1,  # fits a signed 64-bit column
            companions=companions,
        )

    def _cast(self, part: _Part, term: Term | None, first: _Person, rng: np.random.Generator) -> tuple[Voice, ...]:
        """A voice for each role and language: a person for each role, who speaks the term's language too."""
        style, people = part.style, [first]
        for _ in style.roles[1:]:
            people.append(self._person(part, rng, [person.candidate.speaker for person in people]))
        languages = dict.fromkeys([style.language, term.language if term else style.language])
        return tuple(
            Voice(voice.engine, voice.name, voice.accent, language, person.rate_wpm, person.pitch, role)
            for role, person in zip(style.roles or ("",), people, strict=True)
            for language in languages
            for voice in [self._in_language(part, person.candidate, language, rng)]
        )

    def _person(self, part: _Part, rng: np.random.Generator, others: Sequence[str]) -> _Person:
        """Somebody who speaks the style's language, and is none of the `others` where there is a choice."""
        pool, speech = self._pool(part.split, part.style.language), self.config.speech
        pool = [candidate for candidate in pool if candidate.speaker not in others] or pool
        if part.split == "train" and speech.accent_weights:
            weights = np.array([speech.accent_weights.get(candidate.accent, 1.0) for candidate in pool])
            drawn = pool[int(rng.choice(len(pool), p=weights / weights.sum()))]
        else:
            drawn = pool[int(rng.integers(len(pool)))]
        return _Person(
            drawn,
            int(rng.integers(speech.min_rate_wpm, speech.max_rate_wpm + 1)),
            int(rng.integers(speech.min_pitch, speech.max_pitch + 1)),
        )

    def _in_language(self, part: _Part, person: Candidate, language: str, rng: np.random.Generator) -> Candidate:
        """The same person in another language, where the engine has it; else somebody who speaks it."""
        if language == part.style.language:
            return person
        pool = self._pool(part.split, language)
        same = [candidate for candidate in pool if candidate.speaker == person.speaker] or pool
        return same[int(rng.integers(len(same)))]

    def _pool(self, split: str, language: str) -> list[Candidate]:
        if (split, language) not in self._pools:
            pool = self._pools[split, language] = candidates(self.config.speech, split, language)
            if not pool:
                raise UserError(
                    f"split {split} has no voice for language {language!r}; name some in the speech settings"
                )
        return self._pools[split, language]


class _Person(NamedTuple):
    """Somebody who speaks, and how."""

    candidate: Candidate
    rate_wpm: int
    pitch: int


def _parts(config: SynthesisConfig, lexicon: Lexicon) -> Iterator[_Part]:
    sizes = config.manifests.sizes
    taught, unseen = lexicon
    held_out_share = config.transcripts.held_out_patterns
    train = round(sizes.train_per_term * sum(term.weight for term in taught))
    everyday = everyday_style(config.transcripts)
    chat, chat_held_out = everyday.split_patterns(held_out_share)
    styles = term_styles(config.transcripts)
    lost = [term for term in [*taught, *unseen] if not any(_fits(term, style) for style, _ in styles)]
    if lost:
        others = f" and {len(lost) - 1} more terms" if lost[1:] else ""
        raise UserError(
            f"no style takes {lost[0].text!r} ({lost[0].language}){others}; "
            "add a style of that language to transcripts.styles, or take the terms out of the lexicon"
        )

    def around_terms(split: str, count: int, terms: Sequence[Term], which: int) -> Iterator[_Part]:
        """which: 0 for the patterns that are trained on, 1 for those held out."""
        for (style, _), share in zip(styles, _shares(count, [weight for _, weight in styles]), strict=True):
            patterns = style.split_patterns(held_out_share)[which]
            lists = style.lists() if split == "train" else []
            fitting = [term for term in terms if _fits(term, style)]
            if share:
                contrasts = [pattern for pattern in lists if pattern.companions == 1]
                yield _checked(_Part(split, style, share, patterns + lists, fitting, contrasts))

    yield from around_terms("train", train, taught, 0)
    yield _Part("train", everyday, sizes.train_everyday, chat)
    yield from around_terms("validation", sizes.validation, taught, 0)
    yield _Part("validation", everyday, sizes.validation_everyday, chat)
    yield from around_terms("test", sizes.test, taught, 0)
    yield from around_terms("test_unseen_patterns", sizes.test_unseen_patterns, taught, 1)
    yield from around_terms("test_unseen_terms", sizes.test_unseen_terms, unseen, 0)
    yield from around_terms("test_other_synthesiser", sizes.test_other_synthesiser, taught, 0)
    yield _Part("test_general", everyday, sizes.test_general, chat + chat_held_out)


def _shares(count: int, weights: Sequence[float]) -> list[int]:
    """`count` dealt out by weight, in whole numbers.

    >>> _shares(10, [3, 1])
    [8, 2]
    """
    edges = np.round(count * np.cumsum([0.0, *weights]) / sum(weights)).astype(int)
    shares: list[int] = np.diff(edges).tolist()
    return shares


def _fits(term: Term, style: Style) -> bool:
    """A sentence takes terms of its own language, and English ones: those are what other languages borrow."""
    return term.language in (style.language, "en")


def _checked(part: _Part) -> _Part:
    if not part.terms:
        raise UserError(
            f"split {part.split} needs terms for style {part.style.name} ({part.style.language}); "
            "give the lexicon a held_out above 0, or terms of that language"
        )
    if not part.patterns:
        raise UserError(f"split {part.split} needs sentence patterns; set transcripts.held_out_patterns above 0")
    return part


def _by_category(terms: Sequence[Term]) -> dict[str, list[Term]]:
    groups: dict[str, list[Term]] = {}
    for term in terms:
        groups.setdefault(term.category, []).append(term)
    return groups


def _fitting(patterns: Sequence[Pattern], term: Term, by_category: Mapping[str, Sequence[Term]]) -> list[Pattern]:
    """The patterns of the term's category or of any, or where there are none, all with enough terms for their list."""
    enough = [p for p in patterns if p.companions < len(by_category[term.category])]
    return [p for p in enough if p.category in (None, term.category)] or enough


def _sentences(part: _Part, seed: int) -> Iterator[tuple[Term, Pattern]]:
    """Pairs: each term gets its share by weight, each pattern of its category about the same."""
    terms = part.terms
    rng = np.random.default_rng([seed, int(content_id("sentences", part.split, part.style.name), 16)])
    queues = {}
    by_category = _by_category(terms)
    for category in sorted(by_category):
        mine = _fitting(part.patterns, by_category[category][0], by_category)
        queues[category] = itertools.cycle(rng.permutation(np.array(mine, dtype=object)).tolist())
    edges = np.cumsum([term.weight for term in terms]) / sum(term.weight for term in terms)
    order = np.searchsorted(edges, (np.arange(part.size) + 0.5) / part.size)
    return ((terms[i], next(queues[terms[i].category])) for i in order)


def _rivals(part: _Part, term: Term, index: int) -> list[Term]:
    """The terms that a term is mistaken for, in one of so many of its sentences; where lists can hold both."""
    if not part.contrasts or not term.confused_with or index % _CONTRAST_EVERY:
        return []
    names = {name.casefold() for name in term.confused_with}
    return [other for other in part.terms if other.text.casefold() in names and other.text != term.text]


def _companions(term: Term | None, terms: Sequence[Term], count: int, rng: np.random.Generator) -> tuple[Term, ...]:
    if not count:
        return ()
    others = [other for other in terms if term is None or other.text != term.text]
    return tuple(others[i] for i in rng.permutation(len(others))[:count])
