"""What does not count as an error: three ways to write a text before it is compared with another.

`raw` leaves it as it stands. `normalised` is Whisper's normaliser, by which public leaderboards compare. It is made
for everyday English: it deletes `mm`, takes `HbA1c` apart, and tells `.5` from `0.5`. `medical` first reads the text
aloud, as a voice would be told it (`140/90` and `140 over 90` sound the same), then has Whisper's normaliser write the
numbers again, and mends what that does to doses, codes and spelt letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Literal

from rayapp.text.english import read_english, unit_names
from rayapp.text.mandarin import read_mandarin
from rayapp.text.scripts import NO_SPACES

Normalisation = Literal["raw", "normalised", "medical"]
_ENGLISH = ("en", "eng", "english")
_READERS: dict[str, Callable[[str], str]] = {"zh": read_mandarin}


def normalise(text: str, how: Normalisation = "medical", language: str = "en") -> str:
    """A text as it is compared; words stand apart by single spaces, as does each character of a script without any.

    >>> normalise("HbA1c 7.5%, give .5mg PO.", "normalised")
    'hba one c 7.5% give .5 mg po'
    >>> normalise("HbA1c 7.5%, give .5mg PO.") == normalise("h b a one c seven point five percent give 0.5 mg p.o.")
    True
    """
    tag = re.split("[-_]", language.lower())[0]
    if how == "raw":
        written = text
    elif tag not in _ENGLISH:
        read = _READERS.get(tag, str) if how == "medical" else str
        said = _DECIMAL_MARK.sub(_POINT, read(text.translate(_BRACKETS)))
        written = _any_language()(said).translate(_SHOWN)
    elif how == "normalised":
        written = _whisper()(text)
    else:
        written = _medical(text)
    return " ".join(_NO_SPACES.sub(r" \g<0> ", written).split())


def joined(text: str) -> str:
    """A text that was taken apart, with no spaces beside characters of a script that has none: what CER counts.

    >>> joined("服 用 losartan 五 十 毫 克")
    '服用losartan五十毫克'
    """
    return _SPACE_BESIDE.sub("", text)


_NO_SPACES = re.compile(f"[{NO_SPACES}]")
_WORD = re.compile(r"\w+")
_SPACE_BESIDE = re.compile(f"(?<=[{NO_SPACES}]) | (?=[{NO_SPACES}])")


@cache
def _whisper() -> Callable[[str], str]:
    """It takes most of the time here, and of a text in plain words `medical` asks for the same as `normalised`."""
    from whisper_normalizer.english import EnglishTextNormalizer

    normaliser = EnglishTextNormalizer()
    contractions = normaliser.replacers
    words = {pattern.replace(r"\b", "") for pattern in contractions if "'" not in pattern}

    @lru_cache(maxsize=64)
    def normalised(text: str) -> str:
        """Some fifty substitutions, a third of its time, concern words that few texts have."""
        lower = text.lower()
        has_any = "'" in lower or not words.isdisjoint(_WORD.findall(lower))
        normaliser.replacers = contractions if has_any else {}
        return str(normaliser(text))

    return normalised


@cache
def _any_language() -> Callable[[str], str]:
    """Keeps marks: vowels of many scripts are."""
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(preserve_marks=True)


def _medical(text: str) -> str:
    said = text.translate(_BRACKETS)
    for pattern, change in _BEFORE:
        said = pattern.sub(change, said)
    said = _ABBREVIATION.sub(lambda match: match[0].lower().replace(" ", "").replace("o", _O), read_english(said))
    said = _DECIMALS.sub(_hidden_decimals, said)
    written = _whisper()(_SPELT_O.sub(_O, said))
    for pattern, change in _after():
        written = pattern.sub(change, written)
    return _VARIANT.sub(lambda match: _VARIANTS[match[0]], written.translate(_SHOWN))


# Whisper's normaliser deletes what brackets hold; here they are said like the rest.
_BRACKETS = str.maketrans("()[]", "    ")
# It also parts letters from digits, and takes an `o` for a zero. What must stay whole is written with letters of
# another script, which it leaves alone, and written back in the end.
_O, _POINT, _BARRIER = "ო", "ლ", "მ"
_DIGITS = "აბგდევზთიკ"
_HIDDEN = str.maketrans("0123456789.", _DIGITS + _POINT)
_SHOWN = str.maketrans(_DIGITS + _POINT + _O, "0123456789.o")
# It runs numbers that stand beside one another into one (`two 5 mg tablets` are not 25 mg), and stumbles over
# decimals with a 1 in them (`.1 mg` becomes `1 mg`): a word between the ones, and the others hidden, prevent that.
_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SPOKEN_DIGIT = dict(zip((*_DIGIT_WORDS, "oh", "o"), (*_DIGITS, _DIGITS[0], _DIGITS[0]), strict=True))
_ANY_DIGIT = "|".join(_SPOKEN_DIGIT)
_DECIMALS = re.compile(rf"\bpoint((?: (?:{_ANY_DIGIT}))+)\b", re.IGNORECASE)
_DECIMAL_MARK = re.compile(r"(?<=\d)[.,](?=\d)")
_NUMBER_WORDS = (
    *_DIGIT_WORDS,
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand", "million"),
)
_SPELT_O = re.compile(r"(?i)(?<=\b[a-z] )o\b|\bo(?= [a-z]\b)")
_ABBREVIATION = re.compile(r"\b[A-Z](?: [A-Z])+\b")
_VARIANTS = {
    **{"hb a1c": "hba1c", "x ray": "xray", "x rays": "xrays", "ok": "okay", "a m": "am", "i v": "iv"},
    **{f"{letters} {digit}": f"{letters}{digit}" for letters, digit in (("fev", 1), ("il", 6))},
    **{f"{letters} 2": f"{letters}2" for letters in ("co", "fio", "paco", "pao", "spo")},
}
"""The same word, however it is spaced or spelt."""
_VARIANT = re.compile(rf"\b({'|'.join(sorted(_VARIANTS, key=len, reverse=True))})\b")


def _hidden(match: re.Match[str]) -> str:
    code = match[0]
    return code if code in unit_names() else code.lower().translate(_HIDDEN)


_SIGNS = {"+": "positive", "-": "negative", "−": "negative"}
_LETTER = f"[b-hj-z{_O}]"
"""That is no word of its own."""


def _hidden_decimals(match: re.Match[str]) -> str:
    return _POINT + "".join(_SPOKEN_DIGIT[digit] for digit in match[1].lower().split())


_Change = Callable[[re.Match[str]], str]
_BEFORE: tuple[tuple[re.Pattern[str], _Change], ...] = (
    # levels of the spine: L4-5 is L4 L5
    (re.compile(r"\b([CTLS])(\d{1,2})[-–/](\d{1,2})\b"), lambda m: f"{m[1]}{m[2]} {m[1]}{m[3]}"),
    # 10,5 is a decimal, 1,200 is not
    (re.compile(r"(?<![\d,])(\d+),(\d{1,2})(?![\d,])"), lambda m: f"{m[1]}.{m[2]}"),
    (re.compile(r"\b(Rh|ER|PR|[A-Za-z]+\d+)([+−-])(?![\w+-])"), lambda m: f"{m[1]} {_SIGNS[m[2]]}"),
    (re.compile(rf"(?i)\b(\d|{'|'.join(_NUMBER_WORDS)}) (?=\.?\d)"), lambda m: f"{m[1]} {_BARRIER} "),
    # codes: HbA1c, B12, E11.9, SpO2; not q8h nor x3
    (re.compile(r"(?<![\w.])(?![qQxX]\d)[A-Za-z]{1,5}\d+(?:\.\d+)?(?:[A-Za-z]{1,3}\d*)?(?!\w)"), _hidden),
)


@cache
def _after() -> tuple[tuple[re.Pattern[str], _Change], ...]:
    singular = {many: one for one, many in unit_names().values() if many != one}
    names = "|".join(sorted(map(re.escape, singular), key=len, reverse=True))
    return (
        (re.compile(r"[.%](?<!\d[.%])(?!\d)"), lambda _: " "),  # which it leaves at the end
        (re.compile(rf" ?\b{_BARRIER}\b"), lambda _: ""),
        (re.compile(r"\bone\b"), lambda _: "1"),  # which Whisper's writes for each 1
        (re.compile(rf"(\d+) {_POINT}([{_DIGITS}]+)\b"), lambda m: f"{m[1]}.{m[2].translate(_SHOWN)}"),
        (re.compile(rf"\b{_POINT}([{_DIGITS}]+)\b"), lambda m: f"0.{m[1].translate(_SHOWN)}"),
        (re.compile(r"(?<=\d)%"), lambda _: " percent"),
        (re.compile(r"\b(\d+\.\d*?)0+(?!\d)"), lambda m: m[1].removesuffix(".")),  # 2.50
        (re.compile(rf"(?<=\d )({names})\b"), lambda m: singular[m[1]]),  # 5 milligrams
        (
            re.compile(rf"(?<![\w.%])(?:{_LETTER}|[ai](?= \d+ [a-z]\b))(?: (?:[a-z{_O}]|\d+(?:\.\d+)?)(?![\w.%]))+"),
            _joined,
        ),
    )


def _joined(match: re.Match[str]) -> str:
    """Letters that were said one by one, with the numbers between and behind them, as the codes and words they spell.

    An `a` at either end is an article: `a c b c a week after` has two of them.
    """
    letters, articles = match[0].split(), []
    while letters[-1] == "a":
        articles.append(letters.pop())
    return " ".join([*_CODE.findall("".join(letters)), *articles])


_CODE = re.compile(
    r"(?:hb)?a1c|"  # whatever number stands behind it
    rf"[a-z{_O}]\d+(?:\.\d+)?(?:[a-z{_O}]+(?!\d))?"  # b12, e11.9, a1c
    rf"|[a-z{_O}]+\d(?=[a-z{_O}](?!\d))[a-z{_O}]+"  # hba1c; but bmp 3
    rf"|[a-z{_O}]+|[\d.]+"
)
