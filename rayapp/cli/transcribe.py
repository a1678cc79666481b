"""`rayapp transcribe`: recordings to text, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import AsJson, Home
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILES…", help="Recordings of any usual format and length.", show_default=False),
    ],
    model: Annotated[
        str, typer.Option(help="Path of a model, name in the registry, or of Hugging Face's hub.")
    ] = "medical-asr",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write down what is said in recordings.

    Example: `rayapp transcribe note1.wav note2.flac`
    """
    with command_output(as_json) as output:
        import numpy as np

        from rayapp.audio.stream import decoded
        from rayapp.records import SAMPLE_RATE_HZ

        # A bad file is said before the model is loaded.
        audio = [np.concatenate(list(decoded(path, name=str(path)))) for path in paths]

        from rayapp.asr.resolve import resolve_recogniser

        path = resolve_recogniser(model, home)
        with output.step("load", f"loading {model}"):
            from rayapp.asr.long_audio import Cutting, hear_whole
            from rayapp.asr.open import open_recogniser

            recogniser = open_recogniser(path)
        with output.step("transcribe", "listening"):
            heard = hear_whole(recogniser, audio, Cutting())
        rows = [
            {"file": str(file), "seconds": round(len(samples) / SAMPLE_RATE_HZ, 2), "text": result.text}
            for file, samples, result in zip(paths, audio, heard, strict=True)
        ]
        output.result({"transcripts": rows}, *(f"{row['file']}: {row['text']}" for row in rows))
