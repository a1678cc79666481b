"""`rayapp evaluate`: figures and a report for two models on a manifest."""

from __future__ import annotations

from rayapp.cli.options import Address, AsJson, ConfigFile, Overrides
from rayapp.cli.output import command_output


def command(
    config_file: ConfigFile, overrides: Overrides = None, address: Address = None, as_json: AsJson = False
) -> None:
    """Compare two models on a manifest: word and character error rate and terms heard, with 95 % intervals.

    Writes `figures.json`, `heard.parquet` and `report.html`.

    Example: `rayapp evaluate configs/evaluate.yaml`
    """
    with command_output(as_json) as output:
        from pipelines.evaluation.config import EvaluationConfig
        from rayapp.config import load_config

        config = load_config(EvaluationConfig, config_file, overrides or [])

        from pipelines.evaluation.evaluate import evaluate
        from rayapp.cli.tables import figures_table
        from rayapp.ray_session import ray_session

        with output.step("evaluate", f"scoring {config.after} on {config.manifest}") as progress, ray_session(address):
            figures = evaluate(config, progress)
        report = str((config.output / "report.html").absolute())
        values = {"figures": figures, "report": report, "seconds_by_step": output.seconds_by_step}
        output.result(values, figures_table(figures), f"report: {report}")
