"""Sentences that are on both sides of training and test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipelines.manifests.checks import plain_words
from rayapp.ids import content_id
from rayapp.manifest import Manifest

_ROWS = 8192


def side_of(split: str) -> str:
    """Splits of one side may share sentences: `test` and `test_unseen_terms` are both tests.

    >>> side_of("test_unseen_terms")
    'test'
    """
    return split.partition("_")[0]


def find_leaks(manifest: Manifest) -> dict[str, list[str]]:
    """The sentences that splits of several sides have, and which splits these are.

    They are compared by hashes of 8 bytes, so that those of millions fit into memory; the few that are shared are
    then read again.
    """
    hashes, sides = np.unique(np.concatenate([_NONE, *_hashes_of_sides(manifest)]), return_counts=True)
    shared = {int(number) for number in hashes[sides > 1]}
    found: dict[int, tuple[str, list[str]]] = {}
    for split in manifest.splits if shared else ():
        for number, text in _sentences(manifest, split):
            if number in shared:
                _, splits = found.setdefault(number, (text, []))
                if split not in splits:
                    splits.append(split)
    return dict(found.values())


_NONE = np.empty(0, np.uint64)


def _hashes_of_sides(manifest: Manifest) -> list[NDArray[np.uint64]]:
    """Of each side, the hashes of its sentences, each of them once."""
    sides: dict[str, list[NDArray[np.uint64]]] = {}
    for split in manifest.splits:
        hashes = np.fromiter((number for number, _ in _sentences(manifest, split)), np.uint64)
        sides.setdefault(side_of(split), []).append(hashes)
    return [np.unique(np.concatenate(hashes)) for hashes in sides.values()]


def _sentences(manifest: Manifest, split: str) -> Iterator[tuple[int, str]]:
    """Texts and their hashes; not those without words, which are a problem of their own."""
    for batch in manifest.batches(split, ["text"], _ROWS):
        for text in batch["text"].to_pylist():
            if words := plain_words(text or ""):
                yield int(content_id(words), 16), text
