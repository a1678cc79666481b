import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipelines.evaluation.config import EvaluationConfig, TestSetConfig
from pipelines.evaluation.counts import Scorer
from pipelines.evaluation.hearing import HEARD_SCHEMA
from pipelines.evaluation.metrics import calibration_bins, figures
from pipelines.evaluation.report import write_reports
from pipelines.evaluation.resampling import Resampling
from pipelines.evaluation.slices import slices, term_slices
from pipelines.evaluation.term_table import term_table
from pipelines.evaluation.training_data import TrainingData
from rayapp.audio.codec import encode_flac
from rayapp.manifest import Manifest
from rayapp.records import MANIFEST_SCHEMA
from rayapp.storage import published_folder

TERMS = ("losartan", "warfarin", "C++ </script>")
CATEGORIES = dict(zip(TERMS, ("drug", "drug", "code"), strict=True))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def utterance(number):
    term = TERMS[number % 3]
    return {
        "utterance_id": f"u{number}",
        "audio": {"bytes": encode_flac(np.sin(np.arange(8000) / 9).astype(np.float32) / 9), "path": f"u{number}.flac"},
        "text": f"Start {term} today.",
        "terms": [term],
        "category": CATEGORIES[term],
        "language": "en",
        "duration_seconds": 0.5,
        "voice": f"voice {number % 4}",
        "accent": "en-us" if number < 20 else "en-gb",
        "snr_db": 10.0 + number % 15,
        "style": "clinical",
        "generator": "grammar",
        "prompt": "Start {term} today.",
    }


def heard(texts):
    rows = [{"row": n, "text": text, "words": [], "compute_seconds": 0.1} for n, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=HEARD_SCHEMA)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The reports of forty utterances, of which the model before heard none of the terms."""
    folder = tmp_path_factory.mktemp("report")
    columns = [MANIFEST_SCHEMA.field(name) for name in [*utterance(0), "words"]]
    table = pa.Table.from_pylist([utterance(n) for n in range(40)], schema=pa.schema(columns))
    import pyarrow.parquet as pq

    with published_folder(folder / "speech", "speech") as staging:
        (staging / "data").mkdir()
        pq.write_table(table, staging / "data" / "test-00000-of-00001.parquet")
    manifest = Manifest(folder / "speech")
    texts = {
        "before": heard(["start nothing"] * 40),
        "after": heard([f"start {TERMS[n % 3] if n % 5 else 'low certain'} today" for n in range(40)]),
    }
    counts = {name: Scorer(TERMS).score_tables(table, told) for name, told in texts.items()}
    result = SimpleNamespace(
        name="test",
        utterances=manifest.read("test", [name for name in table.column_names if name != "audio"]),
        general=False,
        hours=0.1,
        heard=texts,
        counts=counts,
        figures=figures(counts, Resampling(40, 100, 0)),
        slices=term_slices(counts, CATEGORIES, None, 400, 0) | slices(table, counts, 400, 0),
        terms=term_table("test", counts, CATEGORIES, TrainingData()),
        calibration={name: calibration_bins(counted) for name, counted in counts.items()},
        overlap=None,
    )
    config = EvaluationConfig(sets={"test": TestSetConfig(manifest=folder / "speech")}, after="m", examples=6)
    models = {name: {"path": f"runs/{name}/model.nemo", "model_id": name} for name in ("before", "after")}
    write_reports(
        folder,
        config,
        [result],
        models,
        TrainingData(),
        [{"text": "the round before", "href": "../round-1/report.html"}],
    )
    return folder


def test_the_page_needs_nothing_from_anywhere_and_no_text_can_end_its_data(report):
    page = (report / "report.html").read_text()
    assert page.count("</script>") == 2  # the data's own and the program's
    for scheme in ("http://", "https://"):
        assert scheme not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
            "http://creativecommons.org", ""
        )


def test_markdown_and_json_tell_the_same_figures(report):
    told = json.loads((report / "report.json").read_text())
    recall = told["sets"]["test"]["figures"]["term_recall"]
    assert recall["before"][0] == 0.0
    assert recall["after"][0] == pytest.approx(32 / 40)
    assert recall["verdict"] == "better"
    assert set(told["sets"]["test"]["slices"]) == {"category", "accent", "voice", "snr"}
    markdown = (report / "report.md").read_text()
    assert "| test | 40 | Terms heard | 0.0 % (0.0–0.0) | 80.0 % (" in markdown
    assert "[the round before](../round-1/report.html)" in markdown
    assert "low certain ×" in markdown
    assert "| test | category: drug | 27 | Terms right, of those written | – | 100.0 % (" in markdown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
class TestInABrowser:
    @pytest.fixture(scope="class")
    def page(self, report):
        from playwright.sync_api import sync_playwright

        quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run"]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.faults = []
            page.on("pageerror", lambda fault: page.faults.append(str(fault)))
            page.on("console", lambda told: told.type == "error" and page.faults.append(told.text))
            page.goto((report / "report.html").as_uri())
            yield page
            assert page.faults == []
            browser.close()

    def test_a_click_on_a_column_sorts_the_terms_and_another_turns_them(self, page):
        terms = page.locator("#terms tbody tr td:first-child")
        page.locator("button[data-column=term]").click()
        ascending = terms.all_inner_texts()
        assert ascending == sorted(ascending, key=str.lower)
        page.locator("button[data-column=term]").click()
        assert terms.all_inner_texts() == ascending[::-1]

    def test_utterances_are_filtered_by_slice_and_by_word(self, page):
        count = page.locator("#utterances .count")
        assert count.inner_text() == "1–25 of 40"
        page.get_by_label("accent").select_option("en-us")
        assert count.inner_text() == "1–20 of 20"
        page.get_by_label("Search utterances").fill("low certain")
        assert count.inner_text() == "1–4 of 4"
        marked = page.locator("#utterances .utterance").first
        assert marked.locator("mark").count() + marked.locator("ins").count() > 0
        page.get_by_label("accent").select_option("")
        page.get_by_label("Search utterances").fill("")

    def test_an_utterance_is_played(self, page):
        page.get_by_label("with audio").check()
        assert page.locator("#utterances .count").inner_text() == "1–6 of 6"
        seconds = page.locator("audio").first.evaluate(
            "async player => { player.muted = true; await player.play(); player.pause(); return player.duration; }"
        )
        assert seconds == pytest.approx(0.5, abs=0.02)
        page.get_by_label("with audio").uncheck()

    def test_characters_are_aligned_where_words_have_no_spaces(self, page):
        assert page.evaluate("words('给我 losartan，今天。')") == ["给", "我", "losartan，", "今", "天。"]
        assert page.evaluate("aligned('今天。', '今日').innerHTML") == '今<mark title="said: 天。">日</mark>'
        assert page.evaluate("aligned('Stop it.', 'stop').innerHTML") == 'stop <del title="not heard">it.</del> '

    def test_a_page_of_utterances_follows_the_other(self, page):
        page.locator("#utterances button[data-turn]").last.click()
        assert page.locator("#utterances .count").inner_text() == "26–40 of 40"

    def test_a_phone_scrolls_tables_and_never_the_page_sideways(self, page):
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
