"""`rayapp quickstart`: from a list of terms to a served recogniser, on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from rayapp.cli.options import AsJson, Overrides
from rayapp.cli.output import Output, command_output

if TYPE_CHECKING:
    from pipelines.config import QuickstartConfig
    from pipelines.quickstart import Outcome

FREE_GB = 5.0


def command(
    config_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="YAML file; without it the settings of `configs/quickstart.yaml`.",
            show_default=False,
        ),
    ] = None,
    workdir: Annotated[
        Path | None, typer.Option(help="Folder for everything that is made.", show_default="runs/quickstart")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Go the whole way on this machine: terms, sentences, speech, noise, training, evaluation, release, serving.

    Teaches a small NeMo FastConformer-TDT 60 medical terms with speech made here: nothing is
    downloaded, no GPU is needed, and it takes about a quarter of an hour on two cores. A second run skips
    what is done; Ctrl-C stops it at any time.

    Example: `rayapp quickstart --set lexicon.path=my_terms.csv --set lexicon.take=40 --set lexicon.held_out=10`
    """
    with command_output(as_json) as output:
        from pipelines.config import QuickstartConfig
        from rayapp.config import load_config

        overrides = [*(overrides or []), *([f"workdir={workdir}"] if workdir else [])]
        config = load_config(QuickstartConfig, config_file, overrides)
        values, outcome = _run(config, output)
        output.result(values, *_shown(values, outcome))


def _run(config: QuickstartConfig, output: Output) -> tuple[dict[str, Any], Outcome]:
    from pipelines.lexicon.terms import open_lexicon
    from rayapp.cli.memory import PeakMemory
    from rayapp.config import save_config
    from rayapp.ray_session import cache_folder, ray_session
    from rayapp.storage import require_writable
    from serve.run import free_port, require_free_port

    open_lexicon(config.lexicon)  # a bad lexicon is said before anything starts
    require_writable(config.workdir, FREE_GB)
    require_writable(cache_folder(), 1.0)
    port = config.serving.port or free_port()
    require_free_port("127.0.0.1", port)
    save_config(config, config.workdir)

    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(PeakMemory())
        with output.step("ray", "starting Ray"):
            from pipelines.quickstart import quickstart

            stack.enter_context(ray_session())
        outcome = quickstart(config, cache_folder(), output)
        released = all(verdict.passed for verdict in outcome.verdicts)
        served_model = "the champion" if released else "the adapted model (which the gate refused)"
        with output.step("serving", f"serving {served_model} and asking it about a recording"):
            served, reference = _ask(config, outcome, port)
    figures = outcome.figures
    values = {
        "term_recall_before": figures["test"]["term_recall"]["before"][0],
        "term_recall_after": figures["test"]["term_recall"]["after"][0],
        "wer_before": figures["test"]["wer"]["before"][0],
        "wer_after": figures["test"]["wer"]["after"][0],
        "general_wer_before": figures["test_general"]["wer"]["before"][0],
        "general_wer_after": figures["test_general"]["wer"]["after"][0],
        "general_wer_change": figures["test_general"]["wer"]["change"],
        "unseen_pattern_term_recall_after": figures["test_unseen_patterns"]["term_recall"]["after"][0],
        "unseen_term_recall_before": figures["test_unseen_terms"]["term_recall"]["before"][0],
        "unseen_term_recall_after": figures["test_unseen_terms"]["term_recall"]["after"][0],
        "other_synthesiser_wer_before": figures["test_other_synthesiser"]["wer"]["before"][0],
        "other_synthesiser_wer_after": figures["test_other_synthesiser"]["wer"]["after"][0],
        "released": released,
        "model_version": outcome.version,
        "train_hours": outcome.training["train_hours"],
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_by_step": output.seconds_by_step,
        "peak_memory_gb": round(memory.peak_gb, 2),
        "served_text": served,
        "reference_text": reference,
        "report": str(outcome.report.absolute()),
        "figures": figures,
    }
    return values, outcome


def _ask(config: QuickstartConfig, outcome: Outcome, port: int) -> tuple[str, str]:
    """What the served model hears in the first recording of the test, and what was said."""
    from openai import OpenAI

    from rayapp.manifest import Manifest
    from serve.config import ModelConfig, ServeConfig
    from serve.run import serving

    row = Manifest(outcome.medical).read("test", ["audio", "text"]).slice(0, 1).to_pylist()[0]
    released = all(verdict.passed for verdict in outcome.verdicts)
    source = None if released else str(config.workdir / "adapted" / "model.nemo")
    model = ModelConfig(name=config.serving.model_name, source=source)
    settings = ServeConfig(models=(model,), port=port, allow_unreleased=not released)
    with serving(settings, outcome.home) as url:
        client = OpenAI(base_url=url, api_key="not needed")
        answer = client.audio.transcriptions.create(
            model=model.name, file=(row["audio"]["path"], row["audio"]["bytes"])
        )
    return answer.text, row["text"]


def _shown(values: dict[str, Any], outcome: Outcome) -> Iterator[RenderableType]:
    from rayapp.cli.tables import figures_table, verdict_lines

    yield figures_table(outcome.figures)
    yield from verdict_lines(outcome.verdicts)
    yield f"\nsaid:   {values['reference_text']}\nserved: {values['served_text']}"
    yield (
        f"\n{values['seconds'] / 60:.1f} minutes, {values['peak_memory_gb']} GB at the peak; "
        f"{values['train_hours']} hours of speech in training"
    )
    yield f"report: {values['report']}\n"
    yield "Next: open the report and listen; `rayapp models`; `rayapp serve` keeps the champion running;"
    yield "`docs/tutorial/first-run.md` says how to teach it your own words."
