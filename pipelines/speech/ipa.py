"""IPA as espeak-ng reads it: a lexicon gives pronunciations in IPA, the library takes mnemonics of its own.

The pairs were read off the library itself, which writes both for the same English words. Other languages name some
sounds otherwise; there a respelling is the way.
"""

from __future__ import annotations

import re

from rayapp.errors import RejectedError

IPA = re.compile(r"(?<![\w/])/([^/\s][^/]*)/(?![\w/])")
"""IPA within a spoken text, as in `take /ləˈsɑːtən/ daily`."""

# fmt: off
_MNEMONICS = {
    "ˈ": "'", "ˌ": ",", ".": "", "ː": ":", " ": "_",
    "p": "p", "b": "b", "t": "t", "d": "d", "k": "k", "ɡ": "g", "g": "g", "ɾ": "t#", "ʔ": "?",
    "f": "f", "v": "v", "θ": "T", "ð": "D", "s": "s", "z": "z", "ʃ": "S", "ʒ": "Z", "h": "h", "x": "x",
    "tʃ": "tS", "dʒ": "dZ", "t͡ʃ": "tS", "d͡ʒ": "dZ",
    "m": "m", "n": "n", "ŋ": "N", "l": "l", "ɫ": "l", "ɹ": "r", "r": "r", "j": "j", "w": "w",
    "ə": "@", "ɚ": "3", "ɐ": "a#", "ɜː": "3:", "ɜ": "3:", "ɝ": "3:", "ɝː": "3:", "ᵻ": "I#", "əl": "@L",
    "æ": "a", "ɛ": "E", "e": "E", "ɪ": "I", "iː": "i:", "i": "i", "ɑː": "A:", "ɑ": "A:", "ɒ": "0", "a": "a",
    "ɔː": "O:", "ɔ": "O:", "ʌ": "V", "ʊ": "U", "uː": "u:", "u": "u:",
    "eɪ": "eI", "aɪ": "aI", "ɔɪ": "OI", "aʊ": "aU", "oʊ": "oU", "əʊ": "oU", "o": "oU",
    "ɪə": "i@", "iə": "i@", "ʊə": "U@", "eə": "e@", "ɑːɹ": "A@", "ɔːɹ": "o@", "ɛɹ": "e@", "ʊɹ": "U@", "aɪɚ": "aI3",
}
# fmt: on
_LONGEST = max(map(len, _MNEMONICS))


def to_espeak(ipa: str) -> str:
    """The mnemonics of espeak-ng for English IPA.

    Raises `RejectedError` that names the symbol that there is no sound for.

    >>> to_espeak("ləˈsɑːɹtən")
    "l@'sA@t@n"
    """
    mnemonics, rest = [], ipa
    while rest:
        symbol = next((rest[:n] for n in range(_LONGEST, 0, -1) if rest[:n] in _MNEMONICS), None)
        if symbol is None:
            raise RejectedError(f"IPA {ipa!r} has {rest[0]!r} (U+{ord(rest[0]):04X}), which no English voice can say")
        mnemonics.append(_MNEMONICS[symbol])
        rest = rest[len(symbol) :]
    return "".join(mnemonics)


def with_mnemonics(text: str) -> str:
    """A spoken text whose IPA has become what espeak-ng reads.

    >>> with_mnemonics("take /kəʊd/ daily, 140/90")
    'take [[koUd]] daily, 140/90'
    """
    return IPA.sub(lambda match: f"[[{to_espeak(match[1])}]]", text)
