import json
import re
import threading
import time

import pytest

from pipelines.transcripts.config import JudgeConfig, OpenAIConfig, TranscriptsConfig
from pipelines.transcripts.generator import Draft
from pipelines.transcripts.judge import Judge, JudgeTranscript
from pipelines.transcripts.openai_server import AskForTranscript, OpenAIGenerator
from rayapp.errors import RejectedError, UserError
from rayapp.records import Term, Transcript, Utterance

AT_ONCE = {"retry-after-ms": "1"}


def says(content):
    message = {"role": "assistant", "content": content}
    return 200, {}, {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def sentences_about(body, _):
    term = re.search(r'the term "(.+?)"|$', body["messages"][-1]["content"])[1]
    return says(json.dumps({"sentences": [f"Start {term} today.", f"Stop {term}."]}))


def settings(url, model="small", **openai):
    return TranscriptsConfig(
        generator="openai",
        styles={"dictation_en": 1, "consultation_en": 1},
        openai=OpenAIConfig(base_url=url, model=model, **openai),
    )


def writer_of(server, **openai):
    return AskForTranscript(settings(server.url, **openai), [])


def generator(server, **openai):
    return OpenAIGenerator(settings(server.url, **openai), [])


@pytest.fixture
def drug_slot(slot):
    def make(term="losartan", **fields):
        values = {"style": "dictation_en", "prompt": "start_treatment", "term": Term(term, category="drug")}
        return slot(**(values | fields))

    return make


def reason_of(outcome):
    assert isinstance(outcome, RejectedError)
    return str(outcome)


def test_each_slot_gets_its_own_candidates_in_order(serve, drug_slot):
    terms = [f"drug {letter}" for letter in "abcdefghij"]
    drafts = writer_of(serve(sentences_about), concurrency=4).drafts([drug_slot(term) for term in terms])
    assert drafts == [[Draft(f"Start {term} today."), Draft(f"Stop {term}.")] for term in terms]


def test_dialogues_come_with_their_turns(serve, drug_slot):
    turns = [{"role": "clinician", "text": "Still on losartan?"}, {"role": "patient", "text": "Yes."}]
    server = serve(lambda *_: says(json.dumps({"dialogues": [turns]})))
    ((draft,),) = writer_of(server).drafts([drug_slot(style="consultation_en", prompt="new_prescription")])
    assert draft == Draft("Still on losartan? Yes.", (("clinician", "Still on losartan?"), ("patient", "Yes.")))


def test_the_server_is_told_seed_temperature_and_the_form_of_the_answer(serve, drug_slot):
    server = serve(sentences_about)
    writer = writer_of(server, temperature=0.3, candidates=4)
    for seed in (7, 7, 8):
        writer.drafts([drug_slot(seed=seed)])
    seeds = [body["seed"] for body in server.asked]
    assert seeds[0] == seeds[1] != seeds[2]
    body = server.asked[0]
    assert (body["model"], body["temperature"]) == ("small", 0.3)
    form = body["response_format"]["json_schema"]["schema"]["properties"]["sentences"]
    assert form["maxItems"] == 4


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (says("I would rather not."), "the answer holds no sentence"),
        (says(""), "the answer is empty"),
        (says(None), "the answer is empty"),
        ((200, {}, {"choices": []}), "what the server answered is no chat completion"),
        (
            (200, {"Content-Type": "text/html"}, "<html>welcome</html>"),
            "what the server answered is no chat completion",
        ),
        ((200, {}, "{broken"), "what the server answered is no chat completion"),
        ((400, {}, {"error": {"message": "too long"}}), "the server answered with status 400"),
        ((401, {}, {"error": {"message": "key expired"}}), "the server answered with status 401"),
    ],
)
def test_a_bad_answer_costs_its_slot_alone(serve, drug_slot, reply, reason):
    server = serve(lambda body, tries: reply if "losartan" in str(body) else sentences_about(body, tries))
    bad, good = writer_of(server).drafts([drug_slot(), drug_slot("metformin")])
    assert reason_of(bad) == reason
    assert good[0].written == "Start metformin today."


def test_a_server_that_recovers_is_asked_again(serve, drug_slot):
    server = serve(lambda body, tries: (500, AT_ONCE, {}) if tries < 3 else sentences_about(body, tries))
    ((first, _),) = writer_of(server).drafts([drug_slot()])
    assert first.written == "Start losartan today."
    assert len(server.asked) == 3


def test_a_server_that_stays_broken_is_given_up_after_so_many_tries(serve, drug_slot):
    server = serve(lambda *_: (503, AT_ONCE, {}))
    (outcome,) = writer_of(server, retries=2).drafts([drug_slot()])
    assert reason_of(outcome) == "the server answered with status 503"
    assert len(server.asked) == 3


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(serve, drug_slot):
    server = serve(
        lambda body, tries: (429, {"Retry-After": "0.3"}, {}) if tries == 1 else sentences_about(body, tries)
    )
    started = time.monotonic()
    (outcome,) = writer_of(server).drafts([drug_slot()])
    assert outcome[0].written == "Start losartan today."
    assert time.monotonic() - started >= 0.3


def test_a_slow_server_is_given_up(serve, drug_slot):
    release = threading.Event()
    server = serve(lambda *_: release.wait(5) and says("too late"))
    (outcome,) = writer_of(server, timeout_seconds=0.2, retries=0).drafts([drug_slot()])
    release.set()
    assert reason_of(outcome) == "no answer within 0.2 s"


def test_a_server_that_refuses_json_schemas_is_asked_without_and_only_once_with(serve, drug_slot):
    def refusing(body, tries):
        if "response_format" in body:
            return 400, {}, {"error": {"message": "response_format is not supported"}}
        return sentences_about(body, tries)

    server = serve(refusing)
    writer = writer_of(server, concurrency=1)
    outcomes = writer.drafts([drug_slot(), drug_slot("metformin"), drug_slot("warfarin")])
    assert [drafts[1].written for drafts in outcomes] == ["Stop losartan.", "Stop metformin.", "Stop warfarin."]
    assert ["response_format" in body for body in server.asked] == [True, False, False, False]


def test_a_request_that_is_too_long_does_not_cost_the_others_the_schema(serve, drug_slot):
    too_long = (400, {}, {"error": {"message": "maximum context length"}})
    server = serve(lambda body, tries: too_long if "losartan" in str(body) else sentences_about(body, tries))
    writer = writer_of(server, concurrency=1)
    writer.drafts([drug_slot(), drug_slot("metformin")])
    assert "response_format" in server.asked[-1]


def test_requests_keep_to_the_pace_and_so_do_retries(serve, drug_slot):
    server = serve(lambda body, tries: (500, AT_ONCE, {}) if tries == 1 else sentences_about(body, tries))
    started = time.monotonic()
    writer_of(server, requests_per_minute=600, concurrency=4).drafts([drug_slot()] * 4)
    assert len(server.asked) == 5
    assert time.monotonic() - started >= 4 * 0.1


def test_the_models_there_are_listed_where_one_is_missing(serve):
    server = serve(sentences_about)
    generator(server).check()
    with pytest.raises(UserError, match=r"no model 'huge'; set model to one of: large, small"):
        generator(server, model="huge").check()


def test_a_wrong_key_is_named_by_its_variable_and_never_shown(serve, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    server = serve(sentences_about)
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with pytest.raises(UserError, match=r"refuses the key in MY_KEY.*401") as error:
        generator(server, api_key_variable="MY_KEY").check()
    assert "sk-wrong" not in str(error.value) + caplog.text
    monkeypatch.setenv("MY_KEY", "sk-right")
    generator(server, api_key_variable="MY_KEY").check()


@pytest.mark.parametrize("page", [(404, {}, {}), (200, {"Content-Type": "text/html"}, "<html>chat here</html>")])
def test_a_base_url_that_leads_elsewhere_says_so(serve, page):
    server = serve(sentences_about)
    server.models = lambda _: page
    with pytest.raises(UserError, match="base_url usually ends in /v1"):
        generator(server).check()


def test_a_server_that_is_down_is_named():
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached"):
        OpenAIGenerator(settings("http://127.0.0.1:9/v1", retries=0), []).check()


def test_a_server_that_is_not_ready_yet_says_so(serve):
    server = serve(lambda *_: (503, AT_ONCE, {"error": {"message": "loading the model"}}))
    with pytest.raises(UserError, match=r"is not ready \(status 503\): .*loading the model"):
        generator(server, retries=1).check()


def test_a_model_that_does_not_chat_as_asked_is_found_out_before_the_run_with_the_servers_own_words(serve):
    server = serve(lambda *_: (400, {}, {"error": {"message": "temperature must be 1"}}))
    with pytest.raises(UserError, match=r"will not chat with small: .*temperature must be 1"):
        generator(server).check()


def test_the_judge_scores_each_draft_or_says_that_it_did_not(serve, drug_slot):
    def judging(body, _):
        text = body["messages"][1]["content"]
        return says("No idea." if "puzzling" in text else f'Well: {{"score": {5 if "daily" in text else 2}}}')

    judge = Judge(JudgeConfig(base_url=serve(judging).url, model="small"))
    drafts = [Draft("Take losartan daily."), Draft("Losartan is a bone."), Draft("A puzzling losartan.")]
    good, bad, unclear = judge.scores([(drug_slot(), draft) for draft in drafts])
    assert (good, bad) == (5, 2)
    assert reason_of(unclear) == "the judge gave no score from 1 to 5"


def test_the_judge_is_shown_who_says_what(serve, drug_slot):
    server = serve(lambda *_: says('{"score": 4}'))
    draft = Draft("Still on it? Yes.", (("clinician", "Still on it?"), ("patient", "Yes.")))
    assert Judge(JudgeConfig(base_url=server.url, model="small")).scores([(drug_slot(), draft)]) == [4]
    assert "clinician: Still on it?\npatient: Yes." in server.asked[0]["messages"][1]["content"]


def test_what_the_judge_finds_unlikely_is_set_aside_with_its_score(serve, slot):
    server = serve(lambda body, _: says(json.dumps({"score": 2 if "moon" in body["messages"][-1]["content"] else 4})))
    stage = JudgeTranscript(JudgeConfig(base_url=server.url, model="small", min_score=3))
    texts = ["Start losartan today.", "Take losartan to the moon."]
    said = [Utterance(slot(), Transcript(text, text, ("losartan",), "en", "test")) for text in texts]
    good, bad = stage.on_batch(said)
    assert good is said[0]
    assert isinstance(bad, RejectedError)
    assert str(bad) == "scored 2, below 3"
