"""`rayapp api-key`: a key for the server."""

from __future__ import annotations

from typing import Annotated

import typer

from rayapp.cli.options import AsJson
from rayapp.cli.output import command_output


def command(
    name: Annotated[str, typer.Argument(help="Who gets it; the server's logs name it so.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Make an API key: the key itself, which is shown only now, and the entry for the server's `keys_file`.

    Example: `rayapp api-key ward-3`
    """
    with command_output(as_json) as output:
        from rayapp.errors import UserError
        from serve.keys import KeyEntry, new_key

        key, digest = new_key()
        try:
            entry = KeyEntry(name=name, sha256=digest)
        except ValueError:
            raise UserError(f"name {name!r} must have 1 to 64 letters, digits, dots, dashes or underscores") from None
        lines = [
            f"key, to be kept secret: {key}",
            "entry of keys_file:",
            f"- name: {entry.name}",
            f'  sha256: "{digest}"',
        ]
        output.result({"key": key, "entry": {"name": entry.name, "sha256": digest}}, *lines)
