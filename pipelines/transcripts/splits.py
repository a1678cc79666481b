"""Which split a sentence belongs to: decided by the sentence alone, so that none is in two.

However often, in whatever order and from whatever generator the same words come, their hash puts
them on the same side. A generator draws again until the sentence falls on the side that its slot
was planned for.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from rayapp.ids import content_share

Side = Literal["train", "validation", "test"]
_UPPER_BOUNDS: dict[Side, float] = {"train": 0.70, "validation": 0.80, "test": 1.0}


def side_of_split(split: str) -> Side:
    """`test_unseen_terms` and the other tests share one side: training must see none of them."""
    return split if split in ("train", "validation") else "test"  # type: ignore[return-value]


def side_of_text(text: str) -> Side:
    """The side that the words fall on; case, punctuation, spacing and Unicode's spellings do not matter.

    >>> side_of_text("Start losartan.") == side_of_text("start  losartan")
    True
    """
    plain = unicodedata.normalize("NFKC", text).replace("’", "'")
    words = " ".join(re.findall(r"[\w']+", plain.casefold()))
    share = content_share("side", words)
    return next(side for side, bound in _UPPER_BOUNDS.items() if share < bound)
