"""Who can speak in which split: the voices that a plan draws from."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.speech.config import SpeechConfig
from rayapp.errors import UserError

OTHER_SYNTHESISER = "test_other_synthesiser"


class Candidate(NamedTuple):
    """A voice that may be drawn."""

    engine: str
    name: str
    accent: str
    speaker: str
    """Who it is, in whatever language or accent."""


def candidates(config: SpeechConfig, split: str, language: str = "en") -> list[Candidate]:
    """The voices of a split in a language. No speaker of training is among those of another split.

    Raises `UserError` for a language that no voice speaks.
    """
    if config.engine == "coqui" and split != OTHER_SYNTHESISER:
        from pipelines.speech.coqui.speakers import split_speakers

        speakers = split_speakers(config.coqui)[_side(split)]
        return [Candidate("coqui", name, config.coqui.accents.get(name, language), name) for name in speakers]
    voices = config.voices
    pools = {
        "train": (voices.train_accents, voices.train_speakers),
        "validation": (voices.train_accents, voices.validation_speakers),
        "test": (voices.test_accents, voices.test_speakers),
        OTHER_SYNTHESISER: (voices.test_accents, voices.other_synthesiser_speakers),
    }
    accents, speakers = pools[split if split in pools else "test"]
    if language != "en":
        if language not in voices.other_languages:
            known = ", ".join(sorted(["en", *voices.other_languages]))
            raise UserError(f"no voice is set for language {language!r}; speech.voices has {known}")
        accents = voices.other_languages[language]
    return [Candidate("espeak", f"{accent}+{speaker}", accent, speaker) for accent in accents for speaker in speakers]


def _side(split: str) -> str:
    return split if split in ("train", "validation") else "test"
