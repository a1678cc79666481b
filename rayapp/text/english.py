"""Reading written English aloud: doses, pressures, times and abbreviations as a clinician says them.

Each rule is a pattern and what is said for it; they are tried in order, each on what the ones before have left. Most
read a number or an abbreviation; some only set a word between two numbers. What is left in the end is words, in which
a second reading finds nothing to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from rayapp.text.english_numbers import MONTHS, clock, decade, digits, number, ordinal, paired, year

_Say = Callable[[re.Match[str]], str]
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_ALONE = r"(?<![\w.,/])(?<!\d[-–:])"
"""Before a number that is no part of a code, a date or a longer number."""
_HALF = r"\s?(?P<half>[aApP])\.?[mM]\b(?:\.(?=\s[a-z]|,))?"
"""`am` or `p.m.`; its last full stop is left where it ends the sentence, too."""
_SHOUTED = re.compile(r"[A-Z]{6}")
_ROMANS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_ROMAN = {name: value for value, name in enumerate(_ROMANS, start=1)}
_ANY_ROMAN = "|".join(sorted(_ROMANS, key=len, reverse=True))
_NUMBERED = (
    r"\b(?:[Tt]ypes?|[Ss]tages?|[Gg]rades?|[Cc]lass|[Pp]hases?|[Ff]actor|[Nn]erves?|[Ll]evels?|[Ss]egments?|[Zz]one|"
    r"[Mm]obitz|CN)"
)
_FRACTIONS = {
    "1/2": "one half", "1/3": "one third", "2/3": "two thirds", "1/4": "one quarter", "3/4": "three quarters",
}  # fmt: skip
_VULGAR = str.maketrans({"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "μ": "µ", "−": "-"})


def read_english(text: str) -> str:
    """What is said for a text; nothing that is no written sign, number or abbreviation changes.

    >>> read_english("Metoprolol 12.5 mg BID, BP 140/90 at 8:30.")
    'Metoprolol twelve point five milligrams B I D, B P one forty over ninety at eight thirty.'
    """
    said = text.translate(_VULGAR)
    if _SHOUTED.search(text) and text.isupper():  # capitals throughout are no sign of an abbreviation
        said = said.capitalize()
    if _needs_reading().search(said):
        for pattern, say in _rules():
            said = pattern.sub(say, said)
    return re.sub(r" +([,.;:?!])", r"\1", " ".join(said.split()))


@cache
def unit_names() -> dict[str, tuple[str, str]]:
    """What units are called, one and many of them, by how they are written.

    >>> unit_names()["mg"]
    ('milligram', 'milligrams')
    """
    return {written: (_unit(written, single=True), _unit(written, single=False)) for written in _table()["units"]}


@cache
def _needs_reading() -> re.Pattern[str]:
    """Found in every text that some rule changes; most texts are words alone, and there are many rules."""
    table = _table()
    return re.compile(
        rf"[\dµαβγδΔ]|[^\w\s,.'?!;:-]|[A-Z]{{2}}|\b[IVX]|(?<![\w.])(?:{_either(table['words'])})(?!\w)"
        rf"|(?<!\w)(?:{_either(table['alone'])})(?!\w)|(?i:\bq(?:{_either(table['times'])})\b)"
    )


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load((files("rayapp.text") / "spoken" / "en.yaml").read_text("utf-8"))


@cache
def _rules() -> tuple[tuple[re.Pattern[str], _Say], ...]:
    return tuple((re.compile(pattern), say) for pattern, say in [*_OF_TIMES, *_of_tables(), *_OF_NUMBERS])


def _of_tables() -> Iterator[tuple[str, _Say]]:
    """Rules of units and abbreviations, and of what must be read before a unit is."""
    table = _table()
    units = _either(table["units"])
    quantity = rf"(\ban? |^An? )?{_ALONE}({_NUMBER})((?:\s?[-–]\s?|\s+to\s+){_NUMBER})?"
    per = rf"((?:/(?:{units}|{_NUMBER}\s?(?:{units})|day|dose|hour|kg|week|month))*)"
    yield (
        r"\b([Hh]is|[Hh]er|[Tt]he|[Tt]heir|[Ee]arly|[Mm]id|[Ll]ate)([- ])(\d0)s\b",
        lambda m: f"{m[1]}{m[2]}{decade(m[3])}",
    )
    yield r"(?<![\w.,])((?:19|20)\d0)['’]?s\b", lambda m: decade(m[1])
    yield rf"({_NUMBER})\s?[x×]\s?10\^(\d+)(?:/([µmd]?L)\b)?", _say_power
    length = rf"{_NUMBER}\s?(?:mm|cm|m)?"
    yield rf"({length})\s?[x×]\s?(?=(?:{length}\s?[x×]\s?)?{_NUMBER}\s?(?:mm|cm|m)\b)", lambda m: f"{m[1]} by "
    yield rf"(?:(?<=\d)|(?<!\w))\s?[xX×]\s?(?={_NUMBER})", lambda _: " times "
    yield rf"{quantity}(\s?|-)({units}){per}(?![\w²³])", _say_quantity
    yield (
        r"\b[qQ]\.?\s?(\d+)(?:\s?[-–]\s?(\d+))?[ -]?(h|hr|hrs|hours?|d|days?|wks?|weeks?|mins?|mos?|months?)\b",
        _say_every,
    )
    yield rf"(?i)\bq({_either(table['times'])})\b", lambda m: table["times"][m[1].lower()]
    words = table["words"]
    yield (
        rf"(?<![\w.])({_either(words)})(?!\w)(\s*$)?",
        lambda m: words[m[1]] + ("." if m[1][-1] == "." and m[2] is not None else ""),
    )
    yield rf"(?<!\w)({_either(table['alone'])})((?:/(?:{units}|day|dose))*)(?!\w)", _say_unit_alone
    yield r"\+/-(?=\s?\d)", lambda _: " plus or minus "


def _either(keys: Any) -> str:
    return "|".join(re.escape(key) for key in sorted(keys, key=len, reverse=True))


def _say_quantity(match: re.Match[str]) -> str:
    article, first, second, gap, unit, per = match.groups()
    amount = number(first)
    if second:
        amount += f" to {number(re.sub(r'[^0-9.,]', '', second))}"
    single = bool(article) or gap == "-" or (first == "1" and not second)
    return f"{article or ''}{amount} {_unit(unit, single)}{_below(per)}"


def _say_unit_alone(match: re.Match[str]) -> str:
    return f"{_table()['alone'][match[1]]}{_below(match[2])}"


def _say_power(match: re.Match[str]) -> str:
    per = f" per {_unit(match[3], single=True)}" if match[3] else ""
    return f"{match[1]} times ten to the {ordinal(match[2])}{per}"


def _below(per: str) -> str:
    """What stands below a line, or several, such as `/kg/day`."""
    return "".join(f" per {_per(part)}" for part in per.split("/")[1:])


def _per(part: str) -> str:
    """The unit below a line, such as `kg` or `1.73 m²`."""
    found = re.match(rf"({_NUMBER})?\s?(.+)", part)
    assert found
    unit = _unit(found[2], single=not found[1] or found[1] == "1")
    return f"{number(found[1])} {unit}" if found[1] else unit


def _unit(unit: str, single: bool) -> str:
    names = _table()["units"].get(unit, [unit])
    return names[0] if single else (names[1:] or [f"{names[0]}s"])[0]


def _say_every(match: re.Match[str]) -> str:
    first, second, unit = match.groups()
    name = _unit(unit.removesuffix("s"), single=True)
    if first == "1" and not second:
        return f"every {name}"
    return f"every {number(first)}{f' to {number(second)}' if second else ''} {name}s"


def _say_over(match: re.Match[str]) -> str:
    """A fraction, a blood pressure, a score or a visual acuity, by its numbers."""
    upper, lower = match[1], match[2]
    if (fraction := _FRACTIONS.get(f"{upper}/{lower}")) is not None:
        return fraction
    if int(lower) <= 10:
        return f"{number(upper)} out of {number(lower)}"
    if upper == "20" and int(lower) >= 20:
        return f"{number(upper)} {number(lower)}"
    return f"{paired(upper)} over {paired(lower)}"


def _say_date(month: str, day: str, of_year: str = "") -> str:
    if len(of_year) == 2:
        of_year = f"20{of_year}"
    return f"{MONTHS[int(month) - 1]} {ordinal(day)}{f' {year(of_year)}' if of_year else ''}"


def _say_time(match: re.Match[str]) -> str:
    """A time of day, with `A M` or `P M` where that is written."""
    hour, minute, half = match["hour"], match.groupdict().get("minute"), match["half"]
    return f"{clock(hour, minute) if minute else number(hour)}{f' {half.upper()} M' if half else ''}"


def _say_roman(match: re.Match[str]) -> str:
    said = re.sub(rf"({_ANY_ROMAN})([A-Ca-c]?)(?!\w)", _roman_and_letter, match[2])
    return f"{match[1]} {said.replace('/', ' ').replace('-', ' to ')}"


def _roman_and_letter(match: re.Match[str]) -> str:
    return f"{number(str(_ROMAN[match[1]]))}{f' {match[2].upper()}' if match[2] else ''}"


def _again(match: re.Match[str]) -> str:
    """The letter of a spine level that is written twice, as in `L4-L5`."""
    return f"{match[1]} " if match[0].count(match[1]) > 1 else ""


def _say_capitals(match: re.Match[str]) -> str:
    """Letter by letter; `CTs` with the voice's own plural of a letter."""
    if match[1].lower() in _table()["emphasis"]:
        return match[0]
    return " ".join(match[1]) + ("'s" if match[2] else "")


_OF_TIMES: list[tuple[str, _Say]] = [
    (r"\b((?:19|20)\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b", lambda m: _say_date(m[2], m[3], m[1])),
    (
        r"(?<![\w/])(1[0-2]|0?[1-9])/(3[01]|[12]\d|0?[1-9])/((?:19|20)?\d\d)(?![\w/])",
        lambda m: _say_date(m[1], m[2], m[3]),
    ),
    (rf"\b({'|'.join(MONTHS)}) (\d{{1,2}})(?![\w:./%]|,\d)", lambda m: f"{m[1]} {ordinal(m[2])}"),
    (rf"(?<![\w:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?![\d:,])(?:{_HALF})?", _say_time),
    (rf"(?<![\w:.,/-])(?P<hour>\d{{1,2}}){_HALF}", _say_time),
    (r"(?<![\w:.,])(0\d|1\d|2[0-3])([0-5]\d)\s?(?:h|hrs|hours)\b", lambda m: f"{clock(m[1], m[2])} hours"),
    (r"(?<![\w:.,/-])(0\d)([0-5]\d)(?![\w:.,/-])", lambda m: clock(m[1], m[2])),
]
_OF_NUMBERS: list[tuple[str, _Say]] = [
    # with letters
    (r"\b([CTLS])(\d{1,2})[-–/]\1?(\d{1,2})\b", lambda m: f"{m[1]} {number(m[2])} {_again(m)}{number(m[3])}"),
    (rf"({_NUMBERED})\s+((?:{_ANY_ROMAN})[A-Ca-c]?(?:[-/](?:{_ANY_ROMAN})[A-Ca-c]?)?)(?![\w'’])", _say_roman),
    (r"(?<!\w)(\d+)(?:st|nd|rd|th)\b", lambda m: ordinal(m[1])),
    (r"(?<![\w.])([A-Z]{1,4})[-–]?(\d{1,3})(?![\w]|[.,]\d)", lambda m: f"{' '.join(m[1])} {number(m[2])}"),
    (r"(?<![\w.])([A-Za-z]{2,})[-–](\d{1,3})(?![\w]|[.,]\d)", lambda m: f"{m[1]} {number(m[2])}"),
    # between numbers
    (r"(?<![\w-])(?:(\d{3})-)?(\d{3})-(\d{4})(?![\w-])", lambda m: ", ".join(digits(g) for g in m.groups() if g)),
    (rf"{_ALONE}({_NUMBER})\s?[-–—]\s?(?={_NUMBER}(?!\d|[-/]\d))", lambda m: f"{m[1]} to "),
    (r"(?<![\w./])(\d+) 1/2(?![\w/])", lambda m: f"{number(m[1])} and a half"),
    (r"(?<![\w./])(\d{1,3})/(\d{1,3})(?![\w/]|\.\d)", _say_over),
    (rf"(?<![\w:])({_NUMBER}):(?={_NUMBER})", lambda m: f"{m[1]} to "),
    (rf"({_NUMBER})[x×](?!\w)", lambda m: f"{m[1]} times"),
    # signs beside a number
    (rf"\$\s?({_NUMBER})(?![\w])", lambda m: f"{m[1]} {'dollar' if m[1] == '1' else 'dollars'}"),
    (r"(?:#|\b[Nn]o\.)\s?(?=\d)", lambda _: "number "),
    (r"(?<=\d)\+(?!\w)", lambda _: " plus"),
    (r"(?<![\w+])\+(?=\.?\d)", lambda _: "plus "),
    (r"(?<![\w)\]-])-(?=\.?\d)", lambda _: "minus "),
    # numbers
    (r"(?<![\w.,$#/-])((?:19|20)\d\d)(?!\w|[,./]\d)", lambda m: year(m[1])),
    (rf"(?<![\w.])({_NUMBER})(?!\w)", lambda m: number(m[1])),
    # signs
    (r">=|<=|[≥≤<>±=≈~&@→×÷]", lambda m: f" {_table()['signs'][m[0]]} "),
    (r"[µαβγδΔ]", lambda m: _table()["signs"][m[0]]),
    # abbreviations
    (r"(?<![\w.])([A-Z]{2,5})(s)?(?!\w)", _say_capitals),
]
