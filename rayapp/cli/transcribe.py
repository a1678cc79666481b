"""`rayapp transcribe`: recordings to text, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rayapp.cli.options import Address, AsJson, Home
from rayapp.cli.output import BAD_INPUT, Output, command_output
from rayapp.errors import UserError
from rayapp.tracking import DEFAULT_HOME

_MAX_BATCH_SECONDS = 120.0


def command(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="PLACES…", help="Recordings, folders of them, or manifests; on disk or S3.", show_default=False
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Path of a model, name in the registry, or of Hugging Face's hub.")
    ] = "medical-asr",
    output_folder: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FOLDER",
            help="Write transcripts there; without it, they are shown.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="jsonl (the default), parquet, text, srt or vtt; the last three are a file per recording."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="That listen at a time, each with a copy of the model.")] = None,
    gpus: Annotated[float | None, typer.Option(help="Of each worker; 0.25 lets four share one.")] = None,
    max_batch_seconds: Annotated[
        float | None, typer.Option(help="Of audio, padding included, that fit into a worker's share of the memory.")
    ] = None,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Write down what is said in recordings.

    With `--output` there may be any number of them: run again, it goes on where it was stopped.

    Example: `rayapp transcribe note1.wav note2.flac`, or
    `rayapp transcribe s3://bucket/calls --output runs/transcripts --format srt --workers 4`
    """
    with command_output(as_json) as output:
        settings = {"format": form, "workers": workers, "gpus_per_worker": gpus, "max_batch_seconds": max_batch_seconds}
        given = {name: value for name, value in settings.items() if value is not None}
        if output_folder is None:
            if given:
                raise UserError(f"{', '.join(given)}: to be of use, they need --output FOLDER")
            _show(output, places, model, home)
            return
        from pipelines.transcription.config import TranscriptionConfig
        from pipelines.transcription.transcribe import FAILED, transcribe
        from rayapp.config import checked_config
        from rayapp.inside import require_inside
        from rayapp.ray_session import ray_session
        from rayapp.storage import join

        whole = {"places": places, "output": output_folder, "model": model, **given}
        config = checked_config(TranscriptionConfig, whole)
        require_inside(config)
        with output.step("transcribe", f"listening to {', '.join(places)}") as progress, ray_session(address):
            outcome = transcribe(config, home, progress)
        told = f"{outcome.transcribed} recordings, {outcome.seconds / 3600:.2f} h, were written down in {output_folder}"
        earlier = f"{outcome.earlier} were there from an earlier run"
        failed = f"{len(outcome.failures)} cannot be read: see {join(output_folder, FAILED)}"
        output.result(
            {
                "output": output_folder,
                "transcribed": outcome.transcribed,
                "earlier": outcome.earlier,
                "failed": len(outcome.failures),
                "hours": round(outcome.seconds / 3600, 4),
                "seconds_by_step": output.seconds_by_step,
            },
            told,
            *([earlier] if outcome.earlier else []),
            *([failed] if outcome.failures else []),
        )
        if outcome.failures:
            raise typer.Exit(BAD_INPUT)


def _show(output: Output, places: list[str], model: str, home: Path) -> None:
    """A few recordings, heard in this process."""
    from pipelines.transcription.listen import Failure, listen, require_audio
    from pipelines.transcription.recordings import find_recordings
    from rayapp.asr.resolve import resolve_recogniser

    recordings = find_recordings(places)
    require_audio(recordings)  # said before the model is loaded
    path = resolve_recogniser(model, home)
    with output.step("load", f"loading {model}"):
        from rayapp.asr.open import open_recogniser

        recogniser = open_recogniser(path)
    rows, failures = [], []
    with output.step("transcribe", "listening") as progress:
        for done, outcome in enumerate(listen(recogniser, recordings, _MAX_BATCH_SECONDS), start=1):
            progress(done, len(recordings))
            if isinstance(outcome, Failure):
                failures.append({"file": outcome.name, "error": outcome.reason})
            else:
                rows.append({"file": outcome.name, "seconds": round(outcome.seconds, 2), "text": outcome.heard.text})
    for failure in failures:
        output.console.print(f"[bold red]error:[/] {escape(failure['error'])}")
    output.result({"transcripts": rows, "failed": failures}, *(escape(f"{row['file']}: {row['text']}") for row in rows))
    if failures:
        raise typer.Exit(BAD_INPUT)
