"""What `rayapp plan --scale` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from pipelines.capacity.outcome import Cost, Outcome
from pipelines.scale import Forecast

_TENTHS = 10


def shown(told: Forecast) -> Iterator[RenderableType]:
    """A simulated run, for a person."""
    outcome = told.outcome
    yield (
        f"{told.hours:,.10g} h of speech kept: {outcome.utterances:,} utterances over "
        f"{outcome.rounds} round{'s' if outcome.rounds > 1 else ''}"
    )
    planning = _duration(outcome.planning_hours)
    yield f"wall time {_duration(outcome.wall_hours)}, of which the driver plans for {planning}"
    if told.deadline_hours is not None:
        spare = _duration(abs(told.deadline_hours - outcome.wall_hours))
        met = f"[green]met[/], {spare} before" if told.in_time else f"[red]missed[/], by {spare}"
        yield f"deadline of {_duration(told.deadline_hours)}: {met}"
    cost = outcome.cost.total
    yield f"cost {cost:,.0f} ({cost / told.hours:.3g} for an hour of speech): {_parts(outcome.cost)}"
    yield _groups(told)
    yield f"bottleneck: {_bottleneck(told)}"
    yield _nodes(outcome)
    assumed = ", ".join(group.name for group in outcome.groups if not group.measured)
    yield f"rates: {told.rates.measured_on}" + (f"; assumed for {assumed}" if assumed else "")


def _parts(cost: Cost) -> str:
    whole = max(cost.total, 1e-9)
    return ", ".join(
        f"{part / whole:.1%} {name}"
        for name, part in (
            ("work", cost.working),
            ("work done again", cost.redone),
            ("starting", cost.starting),
            ("idle", cost.idle),
        )
    )


def _bottleneck(told: Forecast) -> str:
    wider = told.bottleneck
    if not wider:
        return "no group alone; what is left is planning, starting, and the way of the first and the last bundles"
    return (
        f"{wider.group}; with {wider.workers:,} more worker{'s' if wider.workers > 1 else ''} it takes "
        f"{_duration(wider.wall_hours)} and costs {wider.cost:,.0f}"
    )


def _groups(told: Forecast) -> Table:
    table = Table(title="Groups of stages, and what their workers do", title_justify="left")
    table.add_column("group")
    columns = ("s / utterance", "mean", "most", "work", "wait for work", "wait for room", "hours", "redone", "+10 %")
    for name in columns:
        table.add_column(name, justify="right")
    for group, wider in zip(told.outcome.groups, told.wider, strict=True):
        table.add_row(
            group.name,
            f"{group.seconds_per_utterance:.3g}{'' if group.measured else ' *'}",
            f"{group.mean_workers:,.1f}",
            f"{group.most_workers:,}",
            f"{group.utilisation:.1%}",
            f"{group.starved:.1%}",
            f"{group.blocked:.1%}",
            f"{group.worker_hours:,.1f}",
            f"{group.redone_hours:,.1f}",
            _duration(wider.wall_hours),
        )
    assumed = "" if all(group.measured for group in told.outcome.groups) else "* assumed, not measured; "
    table.caption = f"{assumed}+10 %: the wall time with a tenth more workers in this group, at least one"
    return table


def _nodes(outcome: Outcome) -> Table:
    table = Table(title="Nodes, and how many there are at each tenth of the wall time", title_justify="left")
    table.add_column("kind")
    for name in ("most", "hours", "lost", "cost", *(f"{tenth}/{_TENTHS}" for tenth in range(_TENTHS + 1))):
        table.add_column(name, justify="right")
    for nodes in outcome.nodes:
        counts = (str(nodes.at(tenth / _TENTHS * outcome.wall_hours)) for tenth in range(_TENTHS + 1))
        figures = (f"{nodes.most:,}", f"{nodes.hours:,.1f}", f"{nodes.lost:,}", f"{nodes.cost:,.0f}")
        table.add_row(nodes.kind, *figures, *counts)
    return table


def _duration(hours: float) -> str:
    """Hours; minutes of less than two, and days of more than three.

    >>> _duration(0.5), _duration(30), _duration(240)
    ('30 min', '30.0 h', '10.0 days')
    """
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:,.1f} h" if hours <= 72 else f"{hours / 24:,.1f} days"
