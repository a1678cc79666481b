"""A recogniser or its tokeniser from a path: what lies there says whose it is."""

from __future__ import annotations

from pathlib import Path

from rayapp.asr.recogniser import Recogniser, Tokeniser
from rayapp.asr.resolve import is_whisper
from rayapp.errors import UserError


def open_recogniser(path: Path, device: str = "cpu") -> Recogniser:
    """From a `.nemo` file, or a folder of a Whisper model or of an adapter to one. Raises `UserError` for others."""
    if _is_folder(path):
        from rayapp.asr.whisper import WhisperRecogniser

        return WhisperRecogniser.load(path, device)
    from rayapp.asr.nemo import NemoRecogniser

    return NemoRecogniser.load(path, device)


def open_tokeniser(path: Path) -> Tokeniser:
    """The tokeniser of the recogniser at a path. Raises `UserError` as `open_recogniser` does."""
    if _is_folder(path):
        from rayapp.asr.whisper import WhisperTokeniser

        return WhisperTokeniser.open(path)
    from rayapp.asr.tokeniser import PieceTokeniser

    return PieceTokeniser.open(path)


def _is_folder(path: Path) -> bool:
    if path.is_dir() and not is_whisper(path):
        raise UserError(f"{path} is a folder without a Whisper model; give one, or the path of a .nemo file")
    return path.is_dir()
