"""What is told and heard before a run: its plan, its cost, samples of it."""

import json

import pytest

from pipelines.audition import audition, varied
from pipelines.config import PricesConfig, SynthesisConfig
from pipelines.estimate import estimate, measure_rates, rates_of_run
from pipelines.here import make_here, sample
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.terms import open_lexicon
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.plan import Planner
from pipelines.synthesize import SUMMARY, prepared
from pipelines.transcripts.config import TranscriptsConfig, VllmConfig
from rayapp.errors import UserError


@pytest.fixture
def config():
    sizes = SizesConfig(train_per_term=30, train_everyday=200, test=40, test_unseen_terms=0)
    return SynthesisConfig(
        lexicon=LexiconConfig(take=8),
        transcripts=TranscriptsConfig(styles={"clinical_en": 3, "dialogue_en": 1}),
        manifests=ManifestsConfig(sizes=sizes),
        workers=2,
        prices=PricesConfig(cpu_hour=0.1, gpu_hour=2),
    )


def test_a_plan_counts_what_the_run_will_make_and_prices_it_by_measured_rates(config):
    config, planner = prepared(config)
    rates = measure_rates(config, planner, 4)
    told = estimate(config, planner, rates)
    assert told.slots == planner.slots == sum(n for styles in told.utterances.values() for n in styles.values())
    assert told.utterances["test"] == {"clinical_en": 30, "dialogue_en": 10}
    attempts = sum((1 - rates.kept_share) ** number for number in range(config.transcripts.rounds))
    assert told.hours == pytest.approx(told.slots * attempts * rates.kept_share * rates.audio_seconds / 3600)
    assert 0 < told.cpu_hours == pytest.approx(2 * told.wall_hours)
    assert (told.gpu_hours, told.not_measured) == (0, ())
    assert told.price == pytest.approx(0.1 * told.cpu_hours)


@pytest.fixture
def earlier_run(tmp_path):
    """A manifest whose run kept every second of its utterances."""
    summary = {
        "slots": 200, "kept": 100, "audio_seconds": 500.0, "bytes": 10_000_000,
        "stages": {
            "vllm": {"rows": 200, "busy_seconds": 40.0},
            "transcript": {"rows": 200, "busy_seconds": 20.0},
            "speech": {"rows": 100, "busy_seconds": 72.0},
        },
    }  # fmt: skip
    (tmp_path / SUMMARY).write_text(json.dumps(summary))
    return str(tmp_path)


def test_rates_come_from_an_earlier_run_too(config, earlier_run):
    config, planner = prepared(config)
    told = estimate(config, planner, rates_of_run(earlier_run))
    slots = planner.slots * (1 + 0.5 + 0.25)  # over three rounds
    assert told.hours == pytest.approx(slots * 0.5 * 5 / 3600)
    assert told.cpu_hours == pytest.approx(slots * (0.1 + 0.72) / 3600)
    assert told.not_measured == ("room", "noise", "microphone")


@pytest.mark.parametrize(("rounds", "times"), [(1, 1), (2, 1.5), (3, 1.75)])
def test_what_will_be_rejected_is_expected_to_be_made_again_in_the_rounds_that_there_are(
    config, earlier_run, rounds, times
):
    config = config.model_copy(update={"transcripts": config.transcripts.model_copy(update={"rounds": rounds})})
    planner = Planner(config, open_lexicon(config.lexicon))
    told = estimate(config, planner, rates_of_run(earlier_run))
    assert (told.slots, told.slots_over_rounds) == (planner.slots, round(times * planner.slots))


def test_an_engine_of_a_language_model_is_priced_by_how_long_it_was_busy(config, earlier_run):
    vllm = VllmConfig(workers=2, gpus=4, engine={"tensor_parallel_size": 4})
    transcripts = TranscriptsConfig(generator="vllm", vllm=vllm, rounds=1)
    config, planner = prepared(config.model_copy(update={"transcripts": transcripts}))
    told = estimate(config, planner, rates_of_run(earlier_run))
    assert told.gpu_hours == pytest.approx(planner.slots * 0.2 * 4 / 3600)
    assert told.wall_hours >= planner.slots * 0.2 / 2 / 3600
    assert "vllm" not in told.not_measured


def test_a_folder_without_a_summary_gives_no_rates(tmp_path):
    with pytest.raises(UserError, match=r"has no summary\.json of an earlier run"):
        rates_of_run(str(tmp_path))


def test_what_is_made_here_is_what_a_run_makes(config):
    _, planner = prepared(config)
    slots = sample(planner, 3)
    first, again = make_here(config, slots), make_here(config, slots)
    assert [u.utterance_id for u in first.finished] == [u.utterance_id for u in again.finished]
    for clean, finished in zip(first.clean, first.finished, strict=True):
        assert clean.transcript == finished.transcript
        assert len(clean.steps) == 1 < len(finished.steps)


def test_a_sample_is_spread_over_the_whole_plan(config):
    _, planner = prepared(config)
    slots = sample(planner, 60)
    assert len(slots) == 60
    assert {slot.split for slot in slots} == set(planner.counts())


def test_nothing_to_make_is_said(config):
    nothing = SizesConfig.model_validate(dict.fromkeys(SizesConfig.model_fields, 0))
    _, planner = prepared(config.model_copy(update={"manifests": ManifestsConfig(sizes=nothing)}))
    with pytest.raises(UserError, match=r"ask for no utterances: give manifests\.sizes some"):
        sample(planner, 3)


def test_an_audition_varies_voices_accents_terms_and_noise(config):
    _, planner = prepared(config)
    slots = varied(planner, 24)
    assert len({slot.slot_id for slot in slots}) == 24
    assert len({slot.voice.name.partition("+")[2] for slot in slots}) >= 20
    assert len({slot.voice.accent for slot in slots}) >= 6
    assert {slot.style for slot in slots} == {"clinical_en", "dialogue_en", "everyday_en"}
    assert len({slot.term.text for slot in slots if slot.term}) == 8


def test_an_audition_is_one_page_with_each_sample_twice(config, tmp_path):
    page = tmp_path / "page.html"
    rows = audition(config, 4, page)
    html = page.read_text()
    assert html.count("data:audio/flac;base64,") == 2 * sum(row["status"] == "ok" for row in rows) > 0
    assert "http" not in html.replace("https://", "http://").split("</style>")[1]
    assert all(row["text"] in html.replace("&#39;", "'") for row in rows)
