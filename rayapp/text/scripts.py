"""Letters and the languages that are written in them: what sentences in two languages are taken apart by."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

NO_SPACES = r"\u0e01-\u0e4e\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, kana and Han: words stand without spaces between them."""
_HAN = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
LATIN = r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
"""Latin letters, for a character class."""
_WORD = re.compile(rf"[{NO_SPACES}]|[^\W_{NO_SPACES}]+(?:['’.\-][^\W_{NO_SPACES}]+)*")
_HAN_THEN_LATIN = re.compile(rf"(?<=[{_HAN}])(?=[{LATIN}0-9])|(?<=[{LATIN}0-9%])(?=[{_HAN}])")
_SPACE_IN_HAN = re.compile(
    rf"(?<=[{_HAN}，。、；：？！]) +(?=[{_HAN}，。、；：？！])|(?<=[，。、；：？！]) +| +(?=[，。、；：？！])"
)

_SCRIPTS = {
    "zh": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"),
    "ko": ("HANGUL",),
    "th": ("THAI",),
    "ru": ("CYRILLIC",),
    "uk": ("CYRILLIC",),
    "bg": ("CYRILLIC",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    "ar": ("ARABIC",),
    "fa": ("ARABIC",),
    "hi": ("DEVANAGARI",),
}
LATIN_AT_HOME = frozenset({"zh", "ja", "ko", "th"})
"""Languages whose texts have words in Latin letters, such as `CT`, as a matter of course."""
_LANGUAGES = {  # Greek is not among them: its letters are signs, as in `β-blocker`
    "LATIN": "en",
    "CJK": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "THAI": "th",
    "CYRILLIC": "ru",
    "HEBREW": "he",
    "ARABIC": "ar",
    "DEVANAGARI": "hi",
}


@cache
def script_of(character: str) -> str:
    """The script of a letter or of a mark on one, as Unicode names it; empty for what is neither.

    >>> script_of("ß"), script_of("药"), script_of("5")
    ('LATIN', 'CJK', '')
    """
    if unicodedata.category(character)[0] not in "LM":
        return ""
    return re.split("[ -]", unicodedata.name(character, "unknown"))[0]


def scripts_of(language: str) -> tuple[str, ...]:
    """What a language is written in."""
    return _SCRIPTS.get(language, ("LATIN",))


def language_of(script: str, style_language: str) -> str:
    """What words in a script are taken to be within a text that is in `style_language` for the rest.

    >>> language_of("LATIN", "zh"), language_of("LATIN", "fr"), language_of("CJK", "en")
    ('en', 'fr', 'zh')
    """
    return style_language if script in scripts_of(style_language) else _LANGUAGES.get(script, style_language)


def words(text: str) -> list[str]:
    """The words of a text; a character of a script without spaces counts as one.

    >>> words("Don't stop E11.9, 开始 CT")
    ["Don't", 'stop', 'E11.9', '开', '始', 'CT']
    """
    return _WORD.findall(text)


def spaced(text: str) -> str:
    """A space between Chinese and Latin writing, and none within Chinese.

    >>> spaced("开始服用losartan 五十毫克 ，每天 两次。")
    '开始服用 losartan 五十毫克，每天两次。'
    """
    return _HAN_THEN_LATIN.sub(" ", _SPACE_IN_HAN.sub("", text))
