"""Reading a lexicon, and choosing which of its terms are taught and which are held out."""

from __future__ import annotations

import csv
import io
import unicodedata
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from pipelines.lexicon.config import LexiconConfig
from rayapp.errors import UserError
from rayapp.ids import content_share, evenly_by_category
from rayapp.records import Term

SAMPLE = "data/medical_en.csv"
MAX_TERM_CHARACTERS = 100


class Lexicon(NamedTuple):
    taught: list[Term]
    held_out: list[Term]


def open_lexicon(config: LexiconConfig) -> Lexicon:
    """Read the terms and share them out.

    Raises `UserError` for a file that is missing, unreadable, empty or holds bad rows (each is named).
    """
    terms = read_terms(config.path)
    wanted = (config.take or 1) + config.held_out
    if wanted > len(terms):
        raise UserError(
            f"lexicon: take ({config.take}) and held_out ({config.held_out}) ask for {wanted} terms; "
            f"the lexicon has {len(terms)}. Lower one of them, or add terms"
        )
    ordered = evenly_by_category(terms, lambda term: term.category, lambda term: content_share("lexicon", term.text))
    taught = ordered[: config.take] if config.take else ordered[: len(ordered) - config.held_out]
    return Lexicon(taught, ordered[len(taught) : len(taught) + config.held_out])


def read_terms(path: Path | None = None) -> list[Term]:
    """The terms of a CSV file, or of the packaged sample of medical terms."""
    name = str(path or SAMPLE)
    try:
        source = path or files("pipelines.lexicon") / SAMPLE
        text = source.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"lexicon {name} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"lexicon {name} cannot be read as UTF-8 text: {error}") from None
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if "text" not in (rows.fieldnames or []):
        raise UserError(
            f"lexicon {name} needs a header with a column named text; it has {rows.fieldnames or 'no lines at all'}"
        )
    terms, problems, seen = [], [], dict[str, int]()
    for line, row in enumerate(rows, start=2):
        try:
            term = _term(row)
            earlier = seen.setdefault(term.text.casefold(), line)
            if earlier != line:
                raise ValueError(f"{term.text!r} stands in line {earlier} already (case does not count)")
            terms.append(term)
        except ValueError as problem:
            problems.append(f"line {line}: {problem}")
    if problems:
        shown = "\n  ".join(problems[:10]) + (f"\n  … and {len(problems) - 10} more" if problems[10:] else "")
        raise UserError(f"lexicon {name} has {len(problems)} bad line(s):\n  {shown}")
    if not terms:
        raise UserError(f"lexicon {name} is empty; add at least one term under the header")
    return terms


def _term(row: dict[str, str | None]) -> Term:
    text = " ".join(unicodedata.normalize("NFC", row["text"] or "").split(" ")).strip()
    if not text:
        raise ValueError("the text is empty")
    control = next((c for c in "".join(v or "" for v in row.values() if isinstance(v, str)) if _is_control(c)), None)
    if control:
        raise ValueError(f"{text!r} has a control character (U+{ord(control):04X}); remove it")
    if len(text) > MAX_TERM_CHARACTERS:
        raise ValueError(f"{text[:30]!r}… has {len(text)} characters; {MAX_TERM_CHARACTERS} is the most for a term")
    try:
        weight = float(row.get("weight") or 1.0)
    except ValueError:
        raise ValueError(f"weight of {text!r} is {row['weight']!r}; it must be a number above 0") from None
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight of {text!r} is {weight:g}; it must be a number above 0")
    return Term(
        text=text,
        category=row.get("category") or "other",
        language=row.get("language") or "en",
        pronunciation=row.get("pronunciation") or None,
        weight=weight,
    )


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs")
