"""The dashboard and the alerts ask for what the server tells."""

import json
import re
from pathlib import Path

import pytest
import yaml
from ray.util.metrics import Counter, Histogram

from serve.metrics import IngressMetrics, RecogniserMetrics, _Collected

MONITORING = Path(__file__).parents[2] / "cluster/manifests/base/monitoring"


def expressions():
    dashboard = json.loads((MONITORING / "serving-dashboard.json").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    alerts = yaml.safe_load((MONITORING / "serving-alerts.yaml").read_text())
    yield from (rule["expr"] for group in alerts["spec"]["groups"] for rule in group["rules"])


@pytest.fixture(scope="module")
def told():
    """Names as Prometheus has them, and the labels of each."""
    names = {}
    for metric in [*vars(IngressMetrics()).values(), *vars(RecogniserMetrics()).values()]:
        name, labels = f"ray_{metric.info['name']}", {*metric.info["tag_keys"], "replica", "le"}
        endings = {Counter: ["_total"], Histogram: ["_bucket", "_sum", "_count"]}
        kind = next((kind for kind in endings if isinstance(metric, kind)), None)
        names |= {name + ending: labels for ending in endings.get(kind, [""])}
    return names


def test_what_they_name_is_told_with_these_labels(told):
    asked = list(expressions())
    assert len(asked) > 20
    for expression in asked:
        names = re.findall(r"ray_\w+", expression)
        assert names
        labels = {
            label
            for listed in re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"\{([^}]*)\}", expression)
            for label in re.findall(r"(\w+)\s*(?:=|,|$)", re.sub(r'"[^"]*"', "", listed))
        }
        for name in names:
            assert name in told, expression
            assert labels <= told[name], expression


def test_every_metric_is_on_the_dashboard(told):
    shown = " ".join(expressions())
    kinds = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in told}
    assert not [name for name in kinds if name not in shown]


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
