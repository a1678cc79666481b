import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.transcripts.answers import parse_answer
from pipelines.transcripts.generator import Draft
from rayapp.errors import RejectedError

SENTENCES = ["Start losartan 2.5 mg daily.", "Losartan was held; BP 90/60."]
ROLES = ("clinician", "patient")
TURNS = (("clinician", "Do you take losartan?"), ("patient", "Yes, 50 mg."))
AS_JSON = json.dumps({"sentences": SENTENCES})
AS_DIALOGUE = json.dumps({"dialogues": [[{"role": role, "text": text} for role, text in TURNS]]})

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["sentences", "role", "text", "a"]), inner),
    max_leaves=12,
)


def written(answer, roles=()):
    return [draft.written for draft in parse_answer(answer, roles)]


@pytest.mark.parametrize(
    "answer",
    [
        AS_JSON,
        f"```json\n{AS_JSON}\n```",
        f"Sure! Here are [2] sentences:\n\n{AS_JSON}\n\nLet me know if {{you}} need more.",
        f'<think>They want {{"sentences": ["draft"]}}.</think>\n{AS_JSON}',
        json.dumps(SENTENCES),
        json.dumps({"sentences": [{"text": sentence} for sentence in SENTENCES]}),
        json.dumps({"note": "two", "sentences": [SENTENCES[0], f'"{SENTENCES[1]}"', SENTENCES[0], " "]}),
        AS_JSON[:-2] + ', "And one that was cut o',
        "Here you are:\n\n1. {}\n2. {}".format(*SENTENCES),
        "1) **{}**\n2) {}".format(*SENTENCES),
        "- “{}”\n- {}\n".format(*SENTENCES),
    ],
)
def test_sentences_are_found_however_a_model_wraps_them(answer):
    assert written(answer) == SENTENCES


def test_a_dose_at_the_start_of_a_line_is_not_taken_for_a_number_of_a_list():
    assert written("1. 2.5 mg of losartan.\n2. 5 mg of losartan.") == ["2.5 mg of losartan.", "5 mg of losartan."]


@pytest.mark.parametrize(
    "answer",
    [
        AS_DIALOGUE,
        f"Of course:\n```\n{AS_DIALOGUE}\n```",
        json.dumps([{"role": role.title(), "text": text} for role, text in TURNS]),
        json.dumps({"dialogues": [{"turns": [{"role": role, "text": text} for role, text in TURNS]}]}),
        AS_DIALOGUE[:-1].removesuffix("]") + ', [{"role": "clinician", "te',
        "Dialogue 1\n**Clinician:** Do you take losartan?\n**Patient:** Yes, 50 mg.",
    ],
)
def test_dialogues_are_found_with_their_turns(answer):
    assert parse_answer(answer, ROLES) == [Draft("Do you take losartan? Yes, 50 mg.", TURNS)]


def test_a_dialogue_with_a_voice_that_nobody_has_is_left_out():
    narrator = [{"role": "narrator", "text": "They sit down."}, {"role": "patient", "text": "Hello."}]
    both = {"dialogues": [narrator, *json.loads(AS_DIALOGUE)["dialogues"]]}
    assert [draft.turns for draft in parse_answer(json.dumps(both), ROLES)] == [TURNS]


@pytest.mark.parametrize("roles", [(), ROLES])
@pytest.mark.parametrize(
    "answer", ["I'm sorry, but I can't help with that.", "{}", '{"sentences": []}', '{"', "[[[" * 999]
)
def test_an_answer_without_any_sentence_is_rejected_in_few_words(answer, roles):
    with pytest.raises(RejectedError, match=r"^the answer holds no (sentence|dialogue)$"):
        parse_answer(answer, roles)


def test_nothing_but_blanks_is_told_apart_from_garbage():
    with pytest.raises(RejectedError, match="empty"):
        parse_answer(" \n")


@given(
    answer=st.text() | json_values.map(json.dumps) | st.text(alphabet='{}[]":, -1.\n\\ud8'),
    roles=st.sampled_from([(), ROLES]),
)
@example(answer='{"sentences": ["\\ud83d half a pair"]}', roles=())
@example(answer='["lone \ud800 surrogate"]', roles=())
def test_whatever_comes_gives_storable_drafts_or_a_rejection(answer, roles):
    try:
        drafts = parse_answer(answer, roles)
    except RejectedError:
        return
    assert drafts
    for draft in drafts:
        assert draft.written.encode()
        assert draft.written == draft.written.strip()
        assert [role for role, _ in draft.turns if role not in roles] == []
        assert bool(draft.turns) == bool(roles)
