"""Reading the numbers, units and dosing abbreviations of a Mandarin text in Mandarin.

Words in Latin letters are left: they are said in another language (see `spans`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from rayapp.text.scripts import spaced

_Say = Callable[[re.Match[str]], str]
_DIGITS = "零一二三四五六七八九"
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
_MOST_DIGITS = 9
"""From so many on, a number is read digit by digit, as telephone numbers are."""


def read_mandarin(text: str) -> str:
    """What is said for a text; a number that is part of a Latin word, such as `B12`, is left.

    >>> read_mandarin("口服500 mg bid，血压140/90 mmHg，体温38.5℃，2024年复查2次")
    '口服五百毫克每日两次，血压一百四十、九十毫米汞柱，体温三十八点五摄氏度，二零二四年复查两次'
    """
    said = text.replace("μ", "µ")
    for pattern, say in _rules():
        said = pattern.sub(say, said)
    return spaced(said)


def is_read_in_mandarin(token: str, after_number: bool) -> bool:
    """Whether a Latin word is read out in Mandarin: a unit after a number, or a dosing abbreviation.

    >>> is_read_in_mandarin("mg/kg", after_number=True), is_read_in_mandarin("CT", after_number=False)
    (True, False)
    """
    if re.fullmatch(r"[qQ]\d+[hHdDwW]", token) or token.lower() in _table()["abbreviations"]:
        return True
    return after_number and all(part in _table()["units"] for part in token.split("/"))


def number(written: str) -> str:
    """A number as such.

    >>> [number(n) for n in ("12", "105", "0.25", "2,000", "10010", "110")]
    ['十二', '一百零五', '零点二五', '两千', '一万零一十', '一百一十']
    """
    whole, _, decimals = written.replace(",", "").partition(".")
    fraction = f"点{digits(decimals)}" if decimals else ""
    if len(whole) >= _MOST_DIGITS or (len(whole) > 1 and whole[0] == "0"):
        return digits(whole) + fraction
    return _whole(int(whole)) + fraction


def digits(written: str) -> str:
    """One digit after the other."""
    return "".join(_DIGITS[int(digit)] for digit in written)


def _whole(value: int) -> str:
    """A number below a hundred million: groups of four digits, with 零 for zeros between others."""
    if value < 20:
        return ("十" if value >= 10 else "") + (_DIGITS[value % 10] if value % 10 or not value else "")
    upper, lower = divmod(value, 10_000)
    if not upper:
        return _below_ten_thousand(lower)
    gap = "零" if 0 < lower < 1000 else ""
    head = "两" if upper == 2 else _whole(upper)
    return f"{head}万{gap}{_below_ten_thousand(lower)}"


def _below_ten_thousand(value: int) -> str:
    said, gap = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, value = divmod(value, unit)
        if digit:
            said += ("零" if gap and said else "") + ("两" if digit == 2 and unit == 1000 else _DIGITS[digit]) + name
        gap = not digit
    return said


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load((files("rayapp.text") / "spoken" / "zh.yaml").read_text("utf-8"))


@cache
def _rules() -> tuple[tuple[re.Pattern[str], _Say], ...]:
    table = _table()
    units = "|".join(re.escape(unit) for unit in sorted(table["units"], key=len, reverse=True))
    periods = {"h": "小时", "d": "天", "w": "周"}
    rules: list[tuple[str, _Say]] = [
        (r"(?<!\w)(\d{4})(?=\s?年)|(?<=[^\W\d_])((?:19|20)\d{2})(?=\s?年)", lambda m: digits(m[1] or m[2])),
        (r"(?<!\d)(\d{1,2}):([0-5]\d)(?!\d)", lambda m: f"{number(m[1])}点{_minutes(m[2])}"),
        (rf"({_NUMBER})\s?[-–~～至]\s?(?={_NUMBER})", lambda m: f"{_counted(m[1], '')}到"),
        (r"第\s?(\d+)", lambda m: f"第{number(m[1])}"),
        (rf"(?<![\d/])(\d+)/(\d+)(?![\d/])(?:\s?({units})(?![A-Za-z]))?", _say_over),
        (rf"({_NUMBER})\s?[%％]", lambda m: f"百分之{number(m[1])}"),
        (rf"(?<![A-Za-z\d.])({_NUMBER})\s?({units})((?:/(?:{units}))*)(?![A-Za-z])", _say_quantity),
        (r"(?<=[\u4e00-\u9fff])/(?=[天日次周月分时])", lambda _: "每"),
        (r"(?<![A-Za-z])[qQ](\d+)([hHdDwW])(?![A-Za-z])", lambda m: f"每{number(m[1])}{periods[m[2].lower()]}一次"),
        (
            rf"(?i)\s?(?<![A-Za-z])({'|'.join(table['abbreviations'])})(?![A-Za-z])\s?",
            lambda m: table["abbreviations"][m[1].lower()],
        ),
        (
            rf"(?<![A-Za-z\d.\-])({_NUMBER})(?![A-Za-z\d])\s?(?=([\u4e00-\u9fff])?)",
            lambda m: _counted(m[1], m[2] or ""),
        ),
        (r"(?<=\w)\s?[>＞]\s?(?=\w)", lambda _: "大于"),
        (r"(?<=\w)\s?[<＜]\s?(?=\w)", lambda _: "小于"),
        (r"[≥]\s?", lambda _: "大于等于"),
        (r"[≤]\s?", lambda _: "小于等于"),
    ]
    return tuple((re.compile(pattern), say) for pattern, say in rules)


def _minutes(minute: str) -> str:
    if minute == "00":
        return "整"
    return f"零{_DIGITS[int(minute)]}分" if minute[0] == "0" else f"{number(minute)}分"


def _say_over(match: re.Match[str]) -> str:
    """A fraction, whose lower part is said first, or a blood pressure."""
    upper, lower = int(match[1]), int(match[2])
    unit = _table()["units"].get(match[3], "")
    if upper < lower:
        return f"{number(match[2])}分之{number(match[1])}{unit}"
    return f"{number(match[1])}、{number(match[2])}{unit}"


def _say_quantity(match: re.Match[str]) -> str:
    table = _table()["units"]
    per = "".join(f"每{table[unit]}" for unit in match[3].split("/")[1:])
    return f"{_counted(match[1], table[match[2]])}{table[match[2]]}{per}"


def _counted(written: str, counted: str) -> str:
    """A number before what it counts: two of something is 两, not 二."""
    if written == "2" and counted[:1] and counted[0] in _table()["two_of"]:
        return "两"
    return number(written)
