"""All commands, by name."""

from __future__ import annotations

import typer

from rayapp.cli import (
    ablate,
    adapt,
    api_key,
    audit,
    audition,
    cluster,
    doctor,
    evaluate,
    export,
    jobs,
    lexicon,
    manifest,
    models,
    plan,
    quickstart,
    release,
    serve,
    submit,
    synthesize,
    trace,
    train,
    transcribe,
    tune_batch,
)

app = typer.Typer(
    name="rayapp",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""
Make a speech recogniser good at your words.

Give it the terms that the recogniser misses: rayapp writes sentences around them, speaks them in many
voices, adds rooms and noise, fine-tunes the recogniser, proves that the terms are heard and that nothing
else got worse, and serves the result as an OpenAI-compatible API.

`rayapp quickstart` goes the whole way on a laptop, with nothing to download.

Exit codes: 0 done, 1 a fault of ours, 2 something you can mend, 3 refused by the gate, 130 interrupted.
""",
)
for module in (
    quickstart,
    plan,
    audition,
    synthesize,
    tune_batch,
    train,
    evaluate,
    adapt,
    ablate,
    export,
    release,
    serve,
    api_key,
    transcribe,
    models,
    trace,
    submit,
    doctor,
):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
for group in (lexicon, manifest, audit, jobs, cluster):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])


def main() -> None:
    app()
