"""`rayapp audition`: a few utterances to listen to, before a run is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayapp.cli.options import AsJson, ConfigFile, Overrides
from rayapp.cli.output import command_output


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=1, max=200, help="Utterances to make.")] = 24,
    page: Annotated[Path, typer.Option("--page", metavar="FILE", help="The HTML page to write.")] = Path(
        "runs/audition.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Make samples across voices, accents, noise and terms, and one page to listen to and compare them.

    Each sample is there twice: as the voice gave it, and as the run would keep it. No Ray is started.

    Example: `rayapp audition configs/synthesize.yaml --samples 12`
    """
    with command_output(as_json) as output:
        from pipelines.config import SynthesisConfig
        from rayapp.config import load_config

        config = load_config(SynthesisConfig, config_file, overrides or [])
        from pipelines.audition import audition
        from rayapp.storage import require_writable

        require_writable(page.absolute().parent)
        with output.step("audition", f"making {samples} samples"):
            rows = audition(config, samples, page)
        rejected = [row for row in rows if row["status"] != "ok"]
        output.result(
            {"page": str(page.absolute()), "samples": rows, "seconds_by_step": output.seconds_by_step},
            f"{len(rows) - len(rejected)} samples to listen to: {page}",
            *(f"rejected: {row['reason']}" for row in rejected),
        )
