"""`rayapp ablate`: what the speech is worth, by its amount, its filter and its augmentation."""

from __future__ import annotations

from rayapp.cli.options import Address, AsJson, ConfigFile, Home, Overrides
from rayapp.cli.output import command_output
from rayapp.tracking import DEFAULT_HOME


def command(
    config_file: ConfigFile,
    overrides: Overrides = None,
    address: Address = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Train on more and less speech, filtered more and less, with and without each augmentation, and compare.

    Every point is a synthesis, a training and an evaluation with its interval; there is a plot for each comparison.
    The same command goes on where a run was interrupted.

    Example: `rayapp ablate configs/ablate.yaml --set parallel=4`
    """
    with command_output(as_json) as output:
        from pipelines.config import AblateConfig
        from rayapp.config import load_config

        config = load_config(AblateConfig, config_file, overrides or [])

        import dataclasses

        from rich.table import Table

        from pipelines.ablate import ablate
        from rayapp.cli.tables import estimate_text
        from rayapp.ray_session import ray_session

        with ray_session(address):
            ablation = ablate(config, home, output)
        table = Table(title=f"On {config.term_set}, with 95 % intervals", title_justify="left")
        for name in ("", "point", "hours", "terms heard", "word error rate", "general speech"):
            table.add_column(name, justify="left" if name in ("", "point") else "right")
        for point in ablation.points:
            measured = {"term_recall": point.term_recall, "wer": point.wer, "general_wer": point.general_wer}
            shares = [estimate_text(estimate, metric) for metric, estimate in measured.items()]
            table.add_row(point.axis, point.label, f"{point.hours:.2f}", *shares)
        report = str(ablation.report.absolute())
        points = [dataclasses.asdict(point) for point in ablation.points]
        values = {"points": points, "report": report, "seconds_by_step": output.seconds_by_step}
        output.result(values, table, f"report: {report}")
