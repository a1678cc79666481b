"""What is known of a recording before it is heard."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

Phrases: TypeAlias = tuple[str, ...]
"""Words and names, such as `("losartan", "metoprolol succinate")`."""

_LISTED_WORDS = 5


@dataclass(frozen=True)
class Context:
    """What is likely to be said, so that it is heard more readily; false where nothing is known.

    Phrase boosting knows the phrases alone, a Whisper goes on from the whole as from what was said before.
    """

    keywords: Phrases = ()
    prompt: str = ""
    """Prose in the style that is wanted, a list of words, or both."""

    def __bool__(self) -> bool:
        return any(map(str.strip, (*self.keywords, self.prompt)))

    @property
    def phrases(self) -> Phrases:
        """The keywords, and what the prompt lists, each once.

        The prompt's sentences are left out, their words are too common to be boosted:

        >>> Context(("amiodarone",), "She takes two of them each day: losartan, Metoprolol succinate.").phrases
        ('amiodarone', 'losartan', 'Metoprolol succinate')
        """
        listed = (" ".join(part.split()) for part in re.split(r"[,;:.\n]", self.prompt))
        short = (part for part in listed if len(part.split()) <= _LISTED_WORDS)
        return tuple(dict.fromkeys(phrase for phrase in map(str.strip, (*self.keywords, *short)) if phrase))


NOTHING_KNOWN = Context()
