"""`rayapp audit`: what a server keeps for audits, and the keys for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rayapp.cli.options import AsJson
from rayapp.cli.output import command_output

app = typer.Typer(no_args_is_help=True, help="Keys for what a server keeps for audits, and what it has kept.")


@app.command("new-key")
def new_key_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="For the private key.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Make a private key, which opens what is kept, and a public one beside it, which the server gets.

    Example: `rayapp audit new-key audit.pem`
    """
    with command_output(as_json) as output:
        from serve.retention import new_key

        public = new_key(path)
        lines = (f"private key, to be kept away from the server: {path}", f"retention.public_key: {public}")
        output.result({"private_key": str(path), "public_key": str(public)}, *lines)


@app.command("read")
def read_command(
    folder: Annotated[Path, typer.Argument(help="Of `retention`.", show_default=False)],
    request_id: Annotated[str, typer.Argument(help="Header `x-request-id` of the answer.", show_default=False)],
    key: Annotated[Path, typer.Option(help="Private key.", show_default=False)],
    audio: Annotated[Path | None, typer.Option(help="Write what was sent there.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was answered to a request, and write its audio to a new file where asked.

    Of several requests that had the same ID all are shown, and the audio is that of the last.

    Example: `rayapp audit read /shared/audit 5f0c9e --key audit.pem --audio note.wav`
    """
    with command_output(as_json) as output:
        from rayapp.errors import UserError
        from serve.retention import open_kept

        kept = open_kept(folder, request_id, key)
        if audio:
            try:
                with os.fdopen(os.open(audio, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                    file.write(kept[-1][1])
            except OSError as error:
                raise UserError(f"{audio} cannot be written: {error.strerror}") from None
        told = [told for told, _ in kept]
        output.result(
            {"requests": told}, *(escape(f"{name}: {value}") for each in told for name, value in each.items())
        )
