import json
import re
from importlib.resources import files

import pytest

from pipelines.transcripts.answers import parse_answer
from pipelines.transcripts.prompts import load_prompts
from rayapp.records import Term

NAMES = sorted(
    path.name.removesuffix(".yaml")
    for path in (files("pipelines.transcripts") / "prompts").iterdir()
    if path.name.endswith(".yaml")
)
CATEGORIES = {"drug", "anatomy", "procedure", "code"}


@pytest.fixture(params=NAMES)
def style(request):
    return load_prompts(request.param)


def slot_for(style, pattern, slot):
    term = None if style.name.startswith("everyday") else Term("losartan", category=pattern.category or "drug")
    companions = tuple(Term(f"companion {index}") for index in range(pattern.companions))
    return slot(style=style.name, prompt=pattern.pattern_id, term=term, companions=companions)


def test_every_scenario_asks_for_its_term_in_its_situation(style, slot):
    for pattern in style.patterns.values():
        asked = slot_for(style, pattern, slot)
        system, user = style.messages(asked, 5)
        assert (system["role"], user["role"]) == ("system", "user")
        for term in [asked.term, *asked.companions]:
            assert term is None or term.text in user["content"]
        assert pattern.text.partition("{")[0] in user["content"]
        assert "5" in user["content"]
        assert not re.search(r"\{\w*\}", system["content"] + user["content"]), pattern.pattern_id


def test_each_style_has_scenarios_enough_for_every_category(style):
    assert 12 <= len(style.patterns) <= 20
    categories = {pattern.category for pattern in style.patterns.values()}
    assert categories == ({None} if style.name.startswith("everyday") else CATEGORIES | {None})
    texts = [pattern.text for pattern in style.patterns.values()]
    assert len(set(texts)) == len(texts)


def test_whole_scenarios_are_held_out_of_every_category_and_lists_never(style):
    trained, held_out = style.split_patterns(0.2)
    ids = [pattern.pattern_id for pattern in trained + held_out + style.lists()]
    assert sorted(ids) == sorted(style.patterns)
    assert {p.category for p in held_out} == {p.category for p in style.patterns.values()}
    assert len(held_out) < len(trained)


def test_an_answer_in_the_form_that_is_asked_for_is_what_the_schema_allows_and_can_be_read(style, slot):
    schema = style.schema(3)
    (key,) = schema["required"]
    item = schema["properties"][key]["items"]
    asked = style.messages(slot_for(style, next(iter(style.patterns.values())), slot), 3)[1]["content"]
    assert f'{{"{key}": [' in asked
    if style.roles:
        assert item["items"]["properties"]["role"]["enum"] == list(style.roles)
        turns = [{"role": role, "text": "A word."} for role in style.roles]
        answer = {key: [turns]}
    else:
        assert item == {"type": "string"}
        answer = {key: ["A word."]}
    (draft,) = parse_answer(json.dumps(answer), style.roles)
    assert [role for role, _ in draft.turns] == list(style.roles)


def test_mandarin_is_asked_for_in_mandarin_with_the_term_as_it_is():
    style = load_prompts("code_switching_zh")
    assert style.language == "zh"
    assert all(re.search(r"[\u4e00-\u9fff]", pattern.text) for pattern in style.patterns.values())
