"""`rayapp manifest export`: manifests for other tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayapp.cli.options import AsJson
from rayapp.cli.output import Output, command_output

if TYPE_CHECKING:
    from pipelines.manifests.export import Source

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Write a manifest as other tools read it. The folder appears whole, or not at all.",
)

Location = Annotated[
    str, typer.Argument(metavar="MANIFEST", help="Folder of a manifest, also on S3.", show_default=False)
]
Folder = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="Folder to write; an earlier export is replaced.", show_default=False)
]
Splits = Annotated[
    list[str] | None, typer.Option("--split", help="Export this split; may be repeated. Without it, all.")
]


@app.command()
def nemo(location: Location, folder: Folder, splits: Splits = None, as_json: AsJson = False) -> None:
    """Write JSON lines and FLAC files for NeMo: `<split>.json` and `audio/*.flac`.

    Example: `rayapp manifest export nemo runs/quickstart/domain runs/nemo --split train`
    """
    with command_output(as_json) as output:
        from pipelines.manifests.nemo import export_nemo

        _export(export_nemo, location, folder, splits or [], output)


@app.command("nemo-tar")
def nemo_tar(location: Location, folder: Folder, splits: Splits = None, as_json: AsJson = False) -> None:
    """Write tarred shards for NeMo: `<split>/audio_0.tar`… with `<split>/tarred_audio_manifest.json`.

    Better than single files on shared storage.

    Example: `rayapp manifest export nemo-tar runs/quickstart/domain runs/tarred`
    """
    with command_output(as_json) as output:
        from pipelines.manifests.nemo import export_nemo_tar

        _export(export_nemo_tar, location, folder, splits or [], output)


@app.command()
def lhotse(location: Location, folder: Folder, splits: Splits = None, as_json: AsJson = False) -> None:
    """Write lhotse's Shar: a folder of shards for each split, with the words' times as alignment.

    Example: `rayapp manifest export lhotse runs/quickstart/domain runs/shar`
    """
    with command_output(as_json) as output:
        from pipelines.manifests.shar import export_shar

        _export(export_shar, location, folder, splits or [], output)


def _export(
    write: Callable[[Source, Path], None], location: str, folder: Path, splits: list[str], output: Output
) -> None:
    from pipelines.manifests.export import Source
    from rayapp.manifest import Manifest

    with output.step("export", f"writing {folder}") as progress:
        source = Source(Manifest(location), splits, progress)
        write(source, folder)
    path = str(folder.absolute())
    values = {"folder": path, "utterances": source.rows, "seconds_by_step": output.seconds_by_step}
    output.result(values, f"{path}: {', '.join(f'{split} {rows}' for split, rows in source.rows.items())}")
