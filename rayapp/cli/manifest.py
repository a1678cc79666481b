"""`rayapp manifest`: look at manifests, check them, merge them, compare them."""

from __future__ import annotations

from typing import Annotated

import typer

from rayapp.cli import manifest_export
from rayapp.cli.options import AsJson
from rayapp.cli.output import BAD_INPUT, command_output

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at manifests, check them, merge them, compare them, and export them to other tools.",
)
app.add_typer(manifest_export.app, name="export")

Location = Annotated[
    str, typer.Argument(metavar="MANIFEST", help="Folder of a manifest, also on S3.", show_default=False)
]


@app.command()
def show(
    location: Location,
    split: Annotated[
        str | None, typer.Option("--split", help="Of this split alone; `rejected` has what failed.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show some rows: ID, split, duration, voice, signal-to-noise ratio, text.

    Example: `rayapp manifest show runs/quickstart/domain --split test --rows 5`
    """
    with command_output(as_json) as output:
        from pipelines.manifests.show import some_rows
        from rayapp.cli.manifest_tables import rows_table
        from rayapp.manifest import Manifest

        shown = some_rows(Manifest(location), split, rows)
        output.result({"rows": shown}, rows_table(shown))


@app.command()
def stats(location: Location, as_json: AsJson = False) -> None:
    """Count utterances and hours: by split, language, category, accent, signal-to-noise ratio, style and writer.

    Reads the metadata alone, so it is quick on large manifests too.

    Example: `rayapp manifest stats runs/quickstart/domain --json`
    """
    with command_output(as_json) as output:
        from pipelines.manifests.figures import measure
        from rayapp.cli.manifest_tables import figures_tables
        from rayapp.manifest import Manifest

        figures = measure(Manifest(location))
        output.result(figures.as_dict(), *figures_tables(figures))


@app.command()
def validate(
    location: Location,
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=0, help="Decode the audio of so many utterances only; 0 decodes none."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a manifest holds what it says: it decodes the audio, and compares lengths, hashes, IDs, texts, splits.

    Exits with 2 when anything is wrong, after it has told how often, with examples.

    Example: `rayapp manifest validate runs/quickstart/domain --sample 1000`
    """
    with command_output(as_json) as output:
        from pipelines.manifests import validate as validation
        from rayapp.cli.manifest_tables import findings_table
        from rayapp.manifest import Manifest

        with output.step("validate", f"checking {location}") as progress:
            findings = validation.validate(Manifest(location), sample, progress)
        values = {
            "valid": not findings.counts,
            "decoded": findings.decoded,
            "problems": {
                kind: {"count": count, "examples": findings.examples[kind]} for kind, count in findings.counts.items()
            },
            "missing_columns": findings.missing_columns,
        }
        missing = ", ".join(findings.missing_columns)
        output.result(
            values,
            *([findings_table(findings)] if findings.counts else ["nothing is wrong"]),
            f"audio decoded: {findings.decoded} utterances",
            *([f"columns that it does not have: {missing}"] if missing else []),
        )
        if findings.counts:
            raise typer.Exit(BAD_INPUT)


@app.command()
def merge(
    folder: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder to write, also on S3.", show_default=False)],
    locations: Annotated[
        list[str], typer.Argument(metavar="MANIFEST...", help="Manifests of the same columns.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Write several manifests as one, each utterance once.

    Utterances of the same ID that differ are an error, which names them.

    Example: `rayapp manifest merge runs/both runs/drugs runs/anatomy`
    """
    with command_output(as_json) as output:
        from pipelines.manifests import merge as merging

        with output.step("merge", f"writing {folder}") as progress:
            merged = merging.merge(locations, folder, progress)
        values = {"manifest": folder, **vars(merged), "seconds_by_step": output.seconds_by_step}
        output.result(values, f"{folder}: {merged.rows} rows; {merged.repeated} were there already")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="FIRST", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="SECOND", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Tell what two manifests do not have in common, by the slots of their plans.

    `--json` lists all rows. Exits with 0 whether they differ or not.

    Example: `rayapp manifest diff runs/monday runs/tuesday`
    """
    with command_output(as_json) as output:
        from pipelines.manifests import diff as comparison
        from rayapp.cli.manifest_tables import difference_table
        from rayapp.manifest import Manifest

        difference = comparison.diff(Manifest(first), Manifest(second))
        output.result(vars(difference), difference_table(difference))
