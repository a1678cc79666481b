import json

import pytest

from pipelines.evaluation.curves import Point, write_curves


def point(axis, label, hours, recall):
    interval = (recall, recall - 0.05, recall + 0.05)
    return Point(axis, label, hours, int(hours * 900), interval, (0.1, 0.08, 0.12), None, f"points/{label}/report.html")


@pytest.fixture
def written(tmp_path):
    points = [
        point("hours", "45 per term", 3.0, 0.9),
        point("hours", "5 per term", 0.4, 0.4),
        point("filter", "0.3", 3.0, 0.9),
        point("augmentation", "no <noise>", 3.0, 0.8),
    ]
    write_curves(tmp_path, points, {"start": "runs/model", "term_set": "test"})
    return tmp_path


def test_there_is_a_plot_for_each_comparison_and_figure_that_was_measured(written):
    page = (written / "ablation.html").read_text()
    assert page.count("<svg") == 3 * 2  # nobody measured general speech
    assert "no &lt;noise&gt;" in page
    assert 'href="points/5 per term/report.html"' in page


def test_points_are_told_to_people_and_programs(written):
    assert (
        "| Hours of synthetic speech | [45 per term](points/45 per term/report.html) | 3.00 | 2700 | 90.0 % (85.0–95.0)"
        in (written / "ablation.md").read_text()
    )
    told = json.loads((written / "ablation.json").read_text())
    assert [p["label"] for p in told["points"]] == ["45 per term", "5 per term", "0.3", "no <noise>"]
    assert told["points"][0]["term_recall"] == pytest.approx([0.9, 0.85, 0.95])
