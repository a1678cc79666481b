"""Dashboards, alerts and recording rules are what Grafana and Prometheus read, and ask for what rayapp tells."""

import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml
from ray.util.metrics import Counter, Gauge, Histogram

from pipelines.training.metrics import TrainingMetrics
from rayapp.metrics import SynthesisMetrics
from serve.metrics import IngressMetrics, RecogniserMetrics, _Collected

OF_THE_PLATFORM = {"ray_io_cluster", "pod", "instance", "replica", "WorkerId", "le"}
"""Labels that Ray, Serve and the PodMonitors add to all metrics."""
CASES = Path(__file__).parent / "alerts.yaml"

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here")


@pytest.fixture(scope="module")
def told():
    """Names of our own metrics as Prometheus has them, and the labels of each."""
    names = {}
    sources = [vars(IngressMetrics()), vars(RecogniserMetrics()), vars(SynthesisMetrics([]))]
    training = vars(TrainingMetrics("model"))
    for metric in [each for values in (*sources, training, training["gauges"]) for each in values.values()]:
        if not isinstance(metric, (Counter, Gauge, Histogram)):
            continue
        name, labels = f"ray_{metric.info['name']}", {*metric.info["tag_keys"], *OF_THE_PLATFORM}
        endings = {Counter: ["_total"], Histogram: ["_bucket", "_sum", "_count"], Gauge: [""]}
        (kind,) = (kind for kind in endings if isinstance(metric, kind))
        names |= {name + ending: labels for ending in endings[kind]}
    return names


def nodes_of(expression, kind):
    found = []
    promql_parser.walk(expression, lambda node: found.append(node) if isinstance(node, kind) else None)
    return found


def test_our_metrics_that_are_asked_for_are_told_with_these_labels(monitoring, told):
    for asked in monitoring.expressions():
        expression = promql_parser.parse(asked)
        for selector in nodes_of(expression, promql_parser.VectorSelector):
            if selector.name.startswith("ray_rayapp_"):
                assert selector.name in told, asked
                assert {matcher.name for matcher in selector.matchers.matchers} <= told[selector.name], asked
        for aggregate in nodes_of(expression, promql_parser.AggregateExpr):
            names = [each.name for each in nodes_of(aggregate.expr, promql_parser.VectorSelector)]
            if aggregate.modifier and names and all(name in told for name in names):
                assert set(aggregate.modifier.labels) <= set.intersection(*(told[name] for name in names)), asked


def test_every_metric_of_ours_is_on_a_dashboard(monitoring, metric_names, told):
    recorded = {rule["record"]: rule["expr"] for rule in every_rule(monitoring) if "record" in rule}
    asked = {name for each in monitoring.expressions(*monitoring.dashboards) for name in metric_names(each)}
    asked |= {name for record in asked & set(recorded) for name in metric_names(recorded[record])}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in told} - shown == set()


def test_what_is_recorded_is_asked_for_and_the_other_way_round(monitoring, metric_names):
    recorded = [rule["record"] for rule in every_rule(monitoring) if "record" in rule]
    asked = {name for each in monitoring.expressions() for name in metric_names(each) if ":" in name}
    assert asked == set(recorded)
    assert len(recorded) == len(asked)


def every_rule(monitoring):
    return [rule for groups in monitoring.rules.values() for group in groups for rule in group["rules"]]


def test_an_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do(monitoring):
    alerts = [rule for rule in every_rule(monitoring) if "alert" in rule]
    assert len({alert["alert"] for alert in alerts}) == len(alerts) > 15
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert len(alert["annotations"]["summary"]) > 20
        assert len(alert["annotations"]["description"]) > 60


def test_a_panel_says_what_it_answers_in_which_unit_and_asks_the_chosen_prometheus(monitoring):
    for dashboard in monitoring.dashboards.values():
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        assert "datasource" in [variable["name"] for variable in dashboard["templating"]["list"]]
        for panel in dashboard["panels"]:
            assert panel["title"]
            if panel["type"] != "row":
                assert panel["targets"]
                assert panel["fieldConfig"]["defaults"]["unit"]
                assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_all_dashboards_and_rules_are_applied(monitoring):
    applied = yaml.safe_load((monitoring.folder / "kustomization.yaml").read_text())
    (generated,) = applied["configMapGenerator"]
    assert set(generated["files"]) == {f"dashboards/{name}.json" for name in monitoring.dashboards}
    assert set(applied["resources"]) == {"pod-monitors.yaml", *(f"{name}.yaml" for name in monitoring.rules)}


@pytest.fixture
def promtool(monitoring, tmp_path):
    """Runs it beside our rules and the cases of `alerts.yaml`; returns what it told, where it found all to be well."""
    (tmp_path / "rules.yaml").write_text(monitoring.all_rules())
    shutil.copy(CASES, tmp_path)

    def run(*words):
        done = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@needs_promtool
def test_prometheus_takes_the_rules(promtool):
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml")


@needs_promtool
def test_prometheus_understands_what_dashboards_ask(promtool, monitoring, tmp_path):
    asked = monitoring.expressions(*monitoring.dashboards)
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    assert f"{len(asked)} rules found" in promtool("check", "rules", "asked.yaml")


@needs_promtool
def test_alerts_are_raised_when_they_should_be_and_only_then(promtool):
    promtool("test", "rules", CASES.name)


def test_what_nodes_tell_of_the_same_metric_is_put_together():
    from prometheus_client import generate_latest

    def node(name, value):
        return (
            "# HELP ray_rayapp_requests_total Asked.\n# TYPE ray_rayapp_requests_total counter\n"
            f'ray_rayapp_requests_total{{node="{name}"}} {value}\n'
            "# HELP ray_other Not ours.\n# TYPE ray_other gauge\nray_other 1.0\n"
        )

    assert generate_latest(_Collected([node("a", 1), "", node("b", 2)])).decode() == (
        "# HELP ray_rayapp_requests_total Asked.\n# TYPE ray_rayapp_requests_total counter\n"
        'ray_rayapp_requests_total{node="a"} 1.0\nray_rayapp_requests_total{node="b"} 2.0\n'
    )
