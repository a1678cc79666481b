"""`rayapp evaluate`: figures and a report for a recogniser on any speech, and for what it is compared with."""

from __future__ import annotations

from rayapp.cli.options import Address, AsJson, ConfigFile, Home, Overrides
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Judge a recogniser on any speech: error rates, terms, numbers, writing, noise, each with its 95 % interval.

    Compares it with another where `before` names one. Refuses speech whose sentences it was trained on. Writes the
    report as HTML, Markdown and JSON beside the figures; what was heard once is not heard again.

    Example: `rayapp evaluate configs/evaluate.yaml --set after=medical-asr@champion`
    """
    with command_output(as_json) as output:
        from pipelines.evaluation.config import EvaluationConfig
        from rayapp.config import load_config

        config = load_config(EvaluationConfig, config_file, overrides or [])

        from pipelines.evaluation.evaluate import evaluate
        from rayapp.cli.tables import figures_table
        from rayapp.ray_session import ray_session

        with output.step("evaluate", f"judging {config.after}") as progress, ray_session(address):
            figures = evaluate(config, home, progress)
        report = str((config.output / "report.html").absolute())
        values = {"figures": figures, "report": report, "seconds_by_step": output.seconds_by_step}
        output.result(values, figures_table(figures), f"report: {report}")
