"""What a recogniser without capitals and punctuation is taught to write."""

from __future__ import annotations

import re
import unicodedata


def plain_text(text: str) -> str:
    """What the small model learns to write: lower case, without punctuation except within words and codes.

    >>> plain_text("Patient's A1C was E11.9, okay?")
    "patient's a1c was e11.9 okay"
    """
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    kept = re.sub(r"[^a-z0-9'. ]+", " ", letters.lower().replace("-", " "))
    return " ".join(re.sub(r"\.(?!\d)", " ", kept).split())
