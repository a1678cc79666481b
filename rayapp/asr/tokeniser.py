"""Tokenisers of NeMo's models, without the models: light enough for every data worker."""

from __future__ import annotations

import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import sentencepiece
import yaml

from rayapp.asr.text import plain_text
from rayapp.errors import UserError

Spelling = Literal["as it is", "lower", "plain"]
"""What a text becomes before it is cut into pieces: NFC alone, without capitals, or `plain_text`."""


class PieceTokeniser:
    """SentencePiece models, one for all languages or one for each.

    Of several, a text gets the one that knows most of its characters, and among those the one that needs the fewest
    pieces; its numbers follow on those of the models before it, as in NeMo's aggregate tokenizer.
    """

    def __init__(self, models: Sequence[bytes]) -> None:
        """models: each as SentencePiece stores it, in the order of their numbers."""
        self._processors = [sentencepiece.SentencePieceProcessor(model_proto=model) for model in models]
        self._characters = frozenset(character for piece in self._pieces() for character in piece)
        self.spelling = _spelling(self._characters)

    @classmethod
    def open(cls, path: Path) -> PieceTokeniser:
        """Of the model in a `.nemo` file. Raises `UserError` for a file that is none, or has none."""
        try:
            with tarfile.open(path) as archive:
                members = {PurePosixPath(member.name).name: member for member in archive.getmembers()}

                def read(name: str) -> bytes:
                    file = archive.extractfile(members[name])
                    assert file
                    return file.read()

                settings = yaml.safe_load(read("model_config.yaml")).get("tokenizer") or {}
                names = [_model_file(each, path) for each in _each_language(settings)]
                return cls([read(PurePosixPath(name.removeprefix("nemo:")).name) for name in names])
        except (OSError, KeyError, tarfile.TarError, yaml.YAMLError) as error:
            raise UserError(f"{path} has no tokenizer that can be read, as a .nemo file has: {error!r}") from error

    def encode(self, text: str) -> list[int]:
        first, processor, spelt = self._best(text)
        return [first + piece for piece in processor.encode(spelt)]

    def inexpressible(self, text: str) -> str:
        lost = [c for c in unicodedata.normalize("NFC", text) if c.isalnum() and not self._spell(c).strip()]
        _, processor, spelt = self._best(text)
        pieces = processor.encode(spelt, return_type="proto").pieces
        unknown = [c for piece in pieces if piece.id == processor.unk_id() for c in piece.surface if not c.isspace()]
        return "".join(dict.fromkeys(lost + unknown))

    def _pieces(self) -> Iterator[str]:
        """All that stand for text: no bytes and no signs of control."""
        for processor in self._processors:
            for number in range(processor.get_piece_size()):
                piece = processor.id_to_piece(number)
                if not (piece.startswith("<") and piece.endswith(">")):
                    yield piece

    def _spell(self, text: str) -> str:
        if self.spelling == "plain":
            return plain_text(text)
        text = unicodedata.normalize("NFC", text)
        if self.spelling == "as it is":
            return text
        return "".join(c for c in text.lower() if c in self._characters or unicodedata.category(c)[0] not in "PS")

    def _best(self, text: str) -> tuple[int, sentencepiece.SentencePieceProcessor, str]:
        """The number of the processor's first piece, the processor, and the text as it is spelt."""
        spelt = self._spell(text)
        choices, first = [], 0
        for processor in self._processors:
            pieces = processor.encode(spelt)
            choices.append(((pieces.count(processor.unk_id()), len(pieces)), first, processor))
            first += processor.get_piece_size()
        _, first, processor = min(choices, key=lambda choice: choice[0])
        return first, processor, spelt


def _spelling(characters: frozenset[str]) -> Spelling:
    letters = [character for character in characters if character.isalpha()]
    if any(letter.isupper() for letter in letters):
        return "as it is"
    return "plain" if all(letter.isascii() for letter in letters) else "lower"


def _each_language(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of each SentencePiece model, in the order of their numbers."""
    return list(settings["langs"].values()) if settings.get("type") == "agg" else [settings]


def _model_file(settings: dict[str, Any], path: Path) -> str:
    if settings.get("type") != "bpe":
        raise UserError(
            f"{path} has a tokenizer of type {settings.get('type')!r}; valid are SentencePiece's: 'bpe', or 'agg' of "
            "several such"
        )
    name: str = settings["model_path"]
    return name
