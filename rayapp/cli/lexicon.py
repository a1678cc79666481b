"""`rayapp lexicon`: lists of terms, read from anywhere, counted, and found in texts and evaluations."""

from __future__ import annotations

from typing import Annotated

import typer

from rayapp.cli.options import AsJson
from rayapp.cli.output import command_output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""
Lists of terms: convert and merge them, count what they hold, and find terms worth teaching.

A lexicon is a CSV, TSV, JSONL or parquet file with the columns text, category, language, pronunciation, weight and
recall, of which only the text is needed, or plain text with a term a line. Files lie on disk or on `s3://…`.
""",
)

_KINDS = "`.csv`, `.tsv`, `.txt`, `.jsonl` or `.parquet`"
_Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help=f"Lexicon to write: {_KINDS}; without it, they are only shown."
    ),
]


@app.command("convert")
def convert(
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILES…", help=f"Lexicons: {_KINDS}, by suffix.", show_default=False)
    ],
    output_file: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help=f"Lexicon to write: {_KINDS}.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Read lexicons of any kind, check, normalise and merge them, and write one of any kind.

    Duplicates (case does not count) become one term: the first gives the text, later ones fill in what it lacks, and
    the largest weight stays. Rows that will not do are named with their line, and nothing is written.

    Example: `rayapp lexicon convert drugs.txt anatomy.csv --output terms.csv`
    """
    with command_output(as_json) as output:
        from pipelines.lexicon.formats import format_of, write_terms
        from pipelines.lexicon.terms import read_merged

        format_of(output_file)
        terms, duplicates = read_merged(inputs)
        write_terms(output_file, terms)
        values = {"lexicon": output_file, "terms": len(terms), "duplicates_merged": duplicates}
        output.result(values, f"{output_file}: {len(terms)} terms; {duplicates} duplicates were merged")


@app.command("stats")
def stats(
    lexicon: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Lexicon; without it, the packaged sample.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count the terms of a lexicon: by category and language, with pronunciation, weights and characters.

    Example: `rayapp lexicon stats terms.csv`
    """
    with command_output(as_json) as output:
        from rich.table import Table
        from rich.text import Text

        from pipelines.lexicon.statistics import statistics
        from pipelines.lexicon.terms import read_terms

        figures = statistics(read_terms(lexicon))
        table = Table(title=lexicon or "The packaged sample", title_justify="left", show_header=False)
        for name, value in figures.items():
            entries = value.items() if isinstance(value, dict) else [("", value)]
            for key, entry in entries:
                table.add_row(name.replace("_", " "), Text(key), Text("–" if entry is None else str(entry)))
            table.add_section()
        output.result(figures, table)


@app.command("mine")
def mine(
    texts: Annotated[
        list[str], typer.Argument(metavar="FILES…", help="Plain text, UTF-8, on disk or `s3://…`.", show_default=False)
    ],
    output_file: _Output = None,
    language: Annotated[str, typer.Option(help="Language of the text, such as `en`.")] = "en",
    min_count: Annotated[int, typer.Option(min=1, help="How often a candidate must stand there.")] = 3,
    limit: Annotated[int, typer.Option(min=1, help="Most candidates to list.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Find candidate terms in texts: words and phrases that stand there often, and are rare in general language.

    Those that stand out most come first, by Dunning's log-likelihood against general word frequencies. Read the list
    before you teach it: names and misspellings stand out, too.

    Example: `rayapp lexicon mine notes.txt letters.txt --output candidates.csv`
    """
    with command_output(as_json) as output:
        from rich.table import Table
        from rich.text import Text

        from pipelines.lexicon.corpus import Corpus
        from pipelines.lexicon.formats import format_of, write_terms
        from pipelines.lexicon.mine import mine as find

        if output_file:
            format_of(output_file)
        with output.step("mine", f"reading {', '.join(texts)}"):
            candidates = find(Corpus(texts), language, min_count, limit)
        if output_file:
            write_terms(output_file, [candidate.term(language) for candidate in candidates])
        table = Table(title="Candidates", title_justify="left")
        for name in ("text", "occurrences", "keyness", "Zipf in general", "context"):
            table.add_column(name, justify="left" if name in ("text", "context") else "right")
        for found in candidates:
            row = (found.text, str(found.occurrences), f"{found.keyness:.1f}", f"{found.zipf:.1f}", *found.contexts[:1])
            table.add_row(*map(Text, row))  # what a text says is no markup
        output.result({"candidates": [found._asdict() for found in candidates], "lexicon": output_file}, table)


@app.command("weak")
def weak(
    evaluation: Annotated[
        str, typer.Argument(metavar="FOLDER", help="What `rayapp evaluate` wrote.", show_default=False)
    ],
    output_file: _Output = None,
    lexicon: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Lexicon that was taught: language, pronunciation and weight come from it; without it, the packaged "
            "sample.",
            show_default=False,
        ),
    ] = None,
    below: Annotated[float, typer.Option(min=0, max=1, help="List terms with a recall below this.")] = 0.9,
    as_json: AsJson = False,
) -> None:
    """List the terms that a model still misses, worst first, as a lexicon for the next round.

    A term's weight is multiplied by 2 - recall: one that is never heard gets twice the sentences.

    Example: `rayapp lexicon weak runs/evaluation --lexicon terms.csv --output weak.csv`
    """
    with command_output(as_json) as output:
        import dataclasses

        from rich.table import Table
        from rich.text import Text

        from pipelines.lexicon.formats import format_of, write_terms
        from pipelines.lexicon.terms import read_terms
        from pipelines.lexicon.weak import weak_terms

        if output_file:
            format_of(output_file)
        found = weak_terms(evaluation, read_terms(lexicon), below)
        written = output_file if found else None
        if written:
            write_terms(written, [entry.term for entry in found])
        table = Table(title=f"Terms with a recall below {below:g}", title_justify="left")
        for name in ("text", "category", "heard", "recall", "weight"):
            table.add_column(name, justify="left" if name in ("text", "category") else "right")
        for term, said, heard in found:
            row = (term.text, term.category, f"{heard} of {said}", f"{term.recall:.2f}", f"{term.weight:g}")
            table.add_row(*map(Text, row))
        terms = [dataclasses.asdict(term) | {"said": said, "heard": heard} for term, said, heard in found]
        nothing = f"every term has a recall of at least {below:g}; nothing was written"
        output.result({"weak": terms, "lexicon": written}, table if found else nothing)
