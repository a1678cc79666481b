"""Numbers as clinicians say them in English: no `and`, no hyphens, and readings by what the number is.

American, as the packaged lexicon is: `one hundred five`, and `one oh five` in a blood pressure.
"""

from __future__ import annotations

import re

from num2words import num2words

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_MOST_DIGITS = 7
"""From so many on, a number without commas is a telephone or record number."""


def number(written: str) -> str:
    """A number as such, read in full.

    >>> number("105"), number("2.50"), number("1,200"), number("0600"), number(".5")
    ('one hundred five', 'two point five zero', 'one thousand two hundred', 'zero six zero zero', 'point five')
    """
    whole, point, decimals = written.replace(",", "").partition(".")
    if point:
        return f"{number(whole) if whole else ''} point {digits(decimals)}".strip()
    if (len(whole) > 1 and whole[0] == "0") or (len(whole) >= _MOST_DIGITS and "," not in written):
        return digits(whole)
    return _plain(num2words(int(whole)))


def digits(written: str, zero: str = "zero") -> str:
    """One digit after the other."""
    return " ".join(zero if digit == "0" else _DIGITS[int(digit)] for digit in written)


def ordinal(written: str) -> str:
    """`21` as `twenty first`."""
    return _plain(num2words(int(written), to="ordinal"))


def year(written: str) -> str:
    """`1998` as `nineteen ninety eight`, `2005` as `two thousand five`."""
    return _plain(num2words(int(written), to="year"))


def paired(written: str) -> str:
    """A number of two or three digits as it is read in a blood pressure.

    >>> paired("140"), paired("105"), paired("200"), paired("90")
    ('one forty', 'one oh five', 'two hundred', 'ninety')
    """
    hundreds, rest = written[:-2], written[-2:]
    if not hundreds or rest == "00":
        return number(written)
    return f"{_DIGITS[int(hundreds)]} {f'oh {_DIGITS[int(rest)]}' if rest[0] == '0' else number(rest)}"


def clock(hour: str, minute: str) -> str:
    """A time of day.

    >>> clock("8", "30"), clock("8", "05"), clock("8", "00"), clock("14", "00"), clock("06", "00")
    ('eight thirty', 'eight oh five', "eight o'clock", 'fourteen hundred', 'oh six hundred')
    """
    if minute == "00":
        military = hour[0] == "0" or int(hour) > 12
        return f"{_hour(hour)} hundred" if military else f"{number(hour)} o'clock"
    return f"{_hour(hour)} {f'oh {_DIGITS[int(minute)]}' if minute[0] == '0' else number(minute)}"


def _hour(hour: str) -> str:
    if len(hour) == 2 and hour[0] == "0":
        return f"oh {_DIGITS[int(hour)]}" if hour != "00" else "zero"
    return number(hour)


def decade(written: str) -> str:
    """`60` of `60s` as `sixties`, `1990` as `nineteen nineties`."""
    words = year(written) if len(written) == 4 else number(written)
    return re.sub(r"y$", "ies", words) if words.endswith("y") else f"{words}s"


def _plain(words: str) -> str:
    return re.sub(r",| and\b", "", words).replace("-", " ")
