"""How a Coqui model reads a text: its language, espeak-ng's phonemes from the library, and IPA that a lexicon gives.

Coqui starts the program `espeak-ng` for each stretch of text. The library that speaks for us does the same within the
process, is there wherever our package is, and is the same version on every worker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.speech import espeak
from pipelines.speech.ipa import IPA
from rayapp.errors import RejectedError

if TYPE_CHECKING:
    from TTS.tts.utils.text.tokenizer import TTSTokenizer

_VOICES = {"en": "en-us", "en-gb": "en", "fr-fr": "fr", "zh-cn": "cmn"}
"""What the library calls the languages that Coqui's models name otherwise."""
_LANGUAGE_SWITCH = re.compile(r"\([^)]+\)")
"""espeak-ng marks foreign words so: `(en)fˈʊtbɔːl(fr)`."""
_PUNCTUATION = re.compile(r"((?:\s*[;:,.!?¡¿—…\"«»“”]+\s*)+)")
"""What Coqui's phonemisers leave as it is, with the spaces around it."""
_IPA_PHONEMIZERS = ("espeak", "gruut")


def use_bundled_espeak() -> None:
    """Make Coqui take our espeak-ng for every model that asks for one."""
    from TTS.tts.utils.text import phonemizers
    from TTS.tts.utils.text.phonemizers.base import BasePhonemizer

    class BundledEspeak(BasePhonemizer):  # type: ignore[misc]
        def __init__(self, language: str) -> None:
            super().__init__(_VOICES.get(language, language), keep_puncs=True)

        def phonemize(self, text: str, separator: str = "|", language: str | None = None) -> str:
            # Not Coqui's own: it loses a text whose only punctuation stands before it.
            stretches = _PUNCTUATION.split(text.strip())
            stretches[::2] = [self._phonemize(stretch, separator) for stretch in stretches[::2]]
            return "".join(stretches)

        def _phonemize(self, text: str, separator: str) -> str:
            return _LANGUAGE_SWITCH.sub("", espeak.ipa(text, self._language)) if text else ""

        def is_supported_language(self, language: str) -> bool:
            return espeak.has_voice(language)

        @staticmethod
        def supported_languages() -> list[str]:
            return list(_VOICES.values())

        @staticmethod
        def name() -> str:
            return "espeak"

        @classmethod
        def is_available(cls) -> bool:
            return True

        def version(self) -> str:
            return "bundled"

    phonemizers._register_phonemizers()
    phonemizers.PHONEMIZERS["espeak"] = BundledEspeak
    for language in (*_VOICES, *_VOICES.values()):  # for configs that name no phonemiser
        phonemizers.DEF_LANG_TO_PHONEMIZER.setdefault(language, "espeak")


def language_name(names: Sequence[str], code: str) -> str | None:
    """What a model that has languages of these names calls a language; None where it has one and does not ask.

    Raises `RejectedError` for a language that it does not speak.

    >>> language_name(["de", "en-us", "zh-cn"], "zh")
    'zh-cn'
    """
    if len(names) < 2:
        return None
    found = [name for name in names if name == code] + [n for n in names if n.split("-")[0] == code.split("-")[0]]
    if not found:
        raise RejectedError(f"the model does not speak {code!r}; it speaks {', '.join(names)}")
    return found[0]


def token_ids(tokenizer: TTSTokenizer, text: str, language: str | None) -> list[int]:
    """What a model reads for a text, with IPA between slashes taken as it is.

    Raises `RejectedError` where nothing of the text, or not all of it, is in the model's vocabulary.
    """
    tokenizer.not_found_characters.clear()
    if IPA.search(text):
        ids = _with_ipa(tokenizer, text, language)
    else:
        ids = tokenizer.text_to_ids(text, language=language)
        # A model that reads phonemes never learnt those that it leaves out; one that reads letters would skip a letter.
        missing = [c for c in tokenizer.not_found_characters if c.isalnum()] if not tokenizer.use_phonemes else []
        if missing:
            raise RejectedError(f"the model has no letters for {''.join(missing)!r} of {text!r}; respell them")
    if not _sounds(tokenizer, ids):
        raise RejectedError(f"there is nothing to say in {text!r}")
    return ids


def _with_ipa(tokenizer: TTSTokenizer, text: str, language: str | None) -> list[int]:
    if not tokenizer.use_phonemes or tokenizer.phonemizer.name() not in _IPA_PHONEMIZERS:
        raise RejectedError(f"the model reads letters, not IPA: give a respelling in place of the IPA in {text!r}")
    phonemes, end = "", 0
    for match in IPA.finditer(text):
        unknown = sorted(set(match[1]) - set(tokenizer.characters.vocab) - {" "})
        if unknown:
            raise RejectedError(f"IPA {match[1]!r} has {', '.join(unknown)}, which the model does not know")
        phonemes += _phonemized(tokenizer, text[end : match.start()], language) + match[1]
        end = match.end()
    ids = tokenizer.encode(phonemes + _phonemized(tokenizer, text[end:], language))
    if tokenizer.add_blank:
        ids = tokenizer.intersperse_blank_char(ids)
    return tokenizer.pad_with_bos_eos(ids) if tokenizer.use_eos_bos else ids


def _phonemized(tokenizer: TTSTokenizer, stretch: str, language: str | None) -> str:
    """Phonemes of the text around IPA, with the spaces at its ends."""
    if not any(map(str.isalnum, stretch)):
        return stretch
    lang = language and language.split("-")[0]
    text = tokenizer.text_cleaner(stretch, lang=lang) if tokenizer.text_cleaner else stretch
    before, after = (" " if edge.isspace() else "" for edge in (stretch[0], stretch[-1]))
    return f"{before}{tokenizer.phonemizer.phonemize(text, separator='', language=language).strip()}{after}"


def _sounds(tokenizer: TTSTokenizer, ids: list[int]) -> bool:
    symbols = (tokenizer.characters.id_to_char(token) for token in ids)
    return any(len(symbol) == 1 and symbol.isalnum() for symbol in symbols)
