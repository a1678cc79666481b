import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import AdaptConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.formats import write_terms
from pipelines.lexicon.reweight import reweighted
from pipelines.lexicon.terms import open_lexicon, read_terms
from pipelines.manifests.config import SizesConfig
from pipelines.plan import Planner
from pipelines.speech.config import SpeechConfig
from pipelines.speech.reweight import reweighted_accents
from rayapp.records import Term
from rayapp.storage import published_folder

TERMS = [Term("losartan", "drug"), Term("valsartan", "drug"), Term("warfarin", "drug"), Term("aspirin", "drug")]


@pytest.fixture
def evaluation(tmp_path):
    """Losartan is taken for valsartan, valsartan and warfarin are heard; aspirin was not said."""

    def row(name, term, said, heard, confusions=()):
        told = [{"heard": text, "times": times} for text, times in confusions]
        return {"set": name, "term": term, "said": said, "after_heard": heard, "after_confusions": told}

    rows = [
        row("steering", "losartan", 8, 0, [("valsartan", 5), ("low certain", 3)]),
        row("steering", "valsartan", 8, 8),
        row("steering", "Warfarin", 8, 8),
        row("test", "losartan", 8, 8),
    ]
    with published_folder(tmp_path / "evaluation", "key") as staging:
        pq.write_table(pa.Table.from_pylist(rows), staging / "terms.parquet")
    return str(tmp_path / "evaluation")


def test_missed_terms_get_the_sentences_of_those_that_are_heard_down_to_a_floor(evaluation):
    found = {term.text: term for term in reweighted(TERMS, TERMS, evaluation, "steering", floor=0.25)}
    # shares of misses: 9/10, 1/10, 1/10, 1/2; their mean is 0.4; so 2.25, 0.25, 0.25, 1.25 times as many
    assert [round(term.weight, 3) for term in found.values()] == [2.25, 0.25, 0.25, 1.25]
    assert [term.recall for term in found.values()] == [0.0, 1.0, 1.0, None]
    assert sum(term.weight for term in found.values()) == pytest.approx(4.0)


def test_terms_that_are_not_taught_stay_as_they_are_and_take_no_sentences(evaluation):
    found = reweighted(TERMS, TERMS[:3], evaluation, "steering", floor=0.25)
    assert found[3] == TERMS[3]
    assert sum(term.weight for term in found[:3]) == pytest.approx(3.0, rel=1e-3)


def test_the_floor_is_kept_before_all_are_scaled(evaluation):
    weights = [term.weight for term in reweighted(TERMS, TERMS, evaluation, "steering", floor=0.5)]
    assert min(weights) / sorted(weights)[-2] == pytest.approx(0.5 / 1.25, abs=1e-3)


def test_terms_that_are_taken_for_one_another_are_said_together(evaluation, tmp_path):
    found = reweighted(TERMS, TERMS, evaluation, "steering", floor=0.25)
    assert found[0].confused_with == ("valsartan",)  # low certain is no term
    write_terms(str(tmp_path / "lexicon.csv"), found)
    assert read_terms(tmp_path / "lexicon.csv")[0].confused_with == ("valsartan",)
    sizes = SizesConfig(**dict.fromkeys(SizesConfig.model_fields, 0) | {"train_per_term": 40})
    config = AdaptConfig(start="model").synthesis(tmp_path, sizes, LexiconConfig(path=tmp_path / "lexicon.csv"), 0)
    slots = list(Planner(config, open_lexicon(config.lexicon)).first())
    losartan = [slot for slot in slots if slot.term.text == "losartan"]
    together = [slot for slot in losartan if [other.text for other in slot.companions] == ["valsartan"]]
    assert len(losartan) == 90
    assert len(together) >= len(losartan) // 4


def test_what_was_heard_is_found_however_the_lexicon_writes_it(tmp_path):
    """Losartan was taken for COVID-19, which an evaluation writes as its normaliser does."""
    row = {"set": "steering", "term": "losartan", "said": 2, "after_heard": 0}
    with published_folder(tmp_path / "evaluation", "key") as staging:
        told = row | {"after_confusions": [{"heard": "covid 19", "times": 2}]}
        pq.write_table(pa.Table.from_pylist([told]), staging / "terms.parquet")
    terms = [Term("losartan", "drug"), Term("COVID-19", "condition")]
    found = reweighted(terms, terms, str(tmp_path / "evaluation"), "steering", floor=0.25)
    assert found[0].confused_with == ("COVID-19",)


def test_accents_that_are_heard_badly_speak_more_and_none_falls_silent(tmp_path):
    rates = {"en-us": 0.1, "en-029": 0.5, "en": 0.0, "en-gb-x-gbclan": 0.9}  # the last one is in the tests alone
    rates |= {"es": 0.8, "es-419": 0.8}  # a language's accents are compared with one another
    accents = {accent: {"utterances": 90, "wer": {"after": [rate, rate, rate]}} for accent, rate in rates.items()}
    with published_folder(tmp_path / "evaluation", "key") as staging:
        (staging / "report.json").write_text(json.dumps({"sets": {"steering": {"slices": {"accent": accents}}}}))
    speech = reweighted_accents(SpeechConfig(), str(tmp_path / "evaluation"), "steering", floor=0.25)
    # over their mean of 0.2, to which 10 utterances are drawn beside 90
    assert speech.accent_weights == {"en": 0.25, "en-029": 2.35, "en-us": 0.55, "es": 1.0, "es-419": 1.0}
    assert reweighted_accents(SpeechConfig(), str(tmp_path / "evaluation"), "ward", 0.25) == SpeechConfig()

    sizes = SizesConfig(**dict.fromkeys(SizesConfig.model_fields, 0) | {"train_per_term": 40, "test": 2400})
    config = AdaptConfig(start="model", speech=speech, lexicon=LexiconConfig(take=60))
    plan = Planner(config.synthesis(tmp_path, sizes, config.lexicon, 0), open_lexicon(config.lexicon)).first()
    heard = Counter((slot.split, slot.cast[0].accent) for slot in plan)
    assert heard["train", "en-029"] / heard["train", "en"] == pytest.approx(9.4, rel=0.3)
    assert heard["test", "en-029"] / heard["test", "en"] == pytest.approx(1, rel=0.2)
