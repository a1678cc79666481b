"""`rayapp export`: a trained model for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import AsJson, Home
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Output of a training, path of a model, or name in the registry.", show_default=False
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="Folder to write; an earlier export is replaced.", show_default=False),
    ],
    form: Annotated[str, typer.Option("--form", help="`nemo`, `onnx` or `torchscript`; `transformers` for Whisper.")],
    licence: Annotated[
        str, typer.Option("--licence", help="Of the model, as Hugging Face names them, such as `cc-by-4.0`.")
    ] = "unknown",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write a model as other tools read it, with a card that tells what it was trained on.

    A transducer's ONNX and TorchScript are its encoder, and its decoder with the joint network.

    Example: `rayapp export runs/model runs/for-onnx --form onnx --licence cc-by-4.0`
    """
    with command_output(as_json) as output:
        from pipelines.training.export import card_of, export
        from rayapp.asr.resolve import resolve_recogniser

        path = resolve_recogniser(model, home)
        card = card_of(Path(model) if Path(model).is_dir() else path, folder.name, licence)
        with output.step("export", f"writing {folder}"):
            export(path, folder, form, card)
        files = sorted(file.name for file in folder.iterdir())
        output.result({"folder": str(folder.absolute()), "form": form, "files": files}, f"{folder}: {', '.join(files)}")
