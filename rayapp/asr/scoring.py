"""What a recogniser got wrong: errors by word and by character, and terms that it missed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jiwer
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """What one recogniser got wrong on one split; one entry per utterance in each array."""

    word_errors: NDArray[np.int64]
    words: NDArray[np.int64]
    character_errors: NDArray[np.int64]
    characters: NDArray[np.int64]
    terms_heard: NDArray[np.int64]
    terms: NDArray[np.int64]

    def of(self, metric: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numerator and denominator of `wer`, `cer` or `term_recall`."""
        return {
            "wer": (self.word_errors, self.words),
            "cer": (self.character_errors, self.characters),
            "term_recall": (self.terms_heard, self.terms),
        }[metric]


METRICS = ("wer", "cer", "term_recall")


def normalise(text: str) -> str:
    """What does not count as an error: case, accents, punctuation outside of codes, hyphens, spacing.

    >>> normalise("Follow-up for E11.9, please.")
    'follow up for e11.9 please'
    """
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    kept = re.sub(r"[^\w'. ]+", " ", letters.casefold().replace("-", " "))
    return " ".join(re.sub(r"\.(?!\d)", " ", kept).split())


def count_errors(references: Sequence[str], hypotheses: Sequence[str], terms: Sequence[Sequence[str]]) -> Counts:
    """Compare what was said with what was heard; a term counts as heard when its words stand in the text.

    >>> counts = count_errors(["Start losartan today."], ["start lasartan today"], [["losartan"]])
    >>> counts.word_errors.item(), counts.words.item(), counts.terms_heard.item()
    (1, 3, 0)
    """
    rows = []
    for reference, hypothesis, spoken_terms in zip(references, hypotheses, terms, strict=True):
        said, heard = normalise(reference), normalise(hypothesis)
        words, characters = _edits(jiwer.process_words, said, heard), _edits(jiwer.process_characters, said, heard)
        found = sum(contains_term(heard, term) for term in spoken_terms)
        rows.append((*words, *characters, found, len(spoken_terms)))
    columns = np.array(rows, np.int64).reshape(-1, 6).T
    return Counts(*columns)


def contains_term(normalised: str, term: str) -> bool:
    return f" {normalise(term)} " in f" {normalised} "


def _edits(process, said: str, heard: str) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    if not said:  # jiwer refuses an empty reference; all that was heard is then an insertion
        return (len(heard.split()) if process is jiwer.process_words else len(heard)), 0
    scored = process(said, heard)
    return scored.substitutions + scored.deletions + scored.insertions, (
        scored.substitutions + scored.deletions + scored.hits
    )
