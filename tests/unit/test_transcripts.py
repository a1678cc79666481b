import numpy as np
import pytest

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.terms import Lexicon, open_lexicon
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.plan import Planner
from pipelines.transcripts.config import TranscriptsConfig
from pipelines.transcripts.generator import Draft
from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.splits import side_of_split, side_of_text
from pipelines.transcripts.write import WriteTranscript, chosen
from rayapp.errors import RejectedError, UserError
from rayapp.records import Term, Utterance


@pytest.fixture(scope="module")
def plan():
    config = SynthesisConfig(
        lexicon=LexiconConfig(take=30, held_out=12),
        manifests=ManifestsConfig(sizes=SizesConfig(train_per_term=10, train_everyday=50)),
    )
    return list(Planner(config, open_lexicon(config.lexicon)).first()), config


@pytest.mark.parametrize(("name", "fewest"), [("clinical_en", 40), ("everyday_en", 40)])
def test_each_grammar_has_many_patterns_and_every_one_can_be_written(name, fewest):
    grammar = load_grammar(name)
    assert len(grammar.patterns) >= fewest
    rng = np.random.default_rng(0)
    for pattern in grammar.patterns.values():
        term = Term("losartan", category="drug") if pattern.category else None
        companions = [Term(f"companion {name}") for name in "abc"][: pattern.companions]
        written = grammar.write(pattern.pattern_id, term, rng, companions)
        text = written.text
        assert all(t.casefold() in text.casefold() for t in written.terms)
        assert len(written.terms) == bool(term) + pattern.companions
        assert "{" not in text
        assert not any(c.isdigit() for c in text)
        assert ("losartan" in text.casefold()) == bool(term)


def test_abbreviations_are_written_one_way_and_said_another():
    grammar = load_grammar("clinical_en")
    rng = np.random.default_rng(0)
    transcripts = [grammar.write(p, Term("x", pronunciation="ex"), rng) for p in grammar.patterns for _ in range(20)]
    ecg = next(t for t in transcripts if "ECG" in t.text)
    assert "E C G" in ecg.spoken
    assert all("ex" in t.spoken for t in transcripts)


def test_a_smaller_grammar_has_fewer_words_and_all_categories():
    whole, part = load_grammar("clinical_en"), load_grammar("clinical_en", 20, 3)
    assert len([p for p in part.patterns.values() if not p.companions]) == 20
    assert {p.category for p in part.patterns.values()} == {p.category for p in whole.patterns.values()}
    assert max(len(alternatives) for slot, alternatives in part.slots.items() if not slot.endswith("_list")) == 3


def test_the_same_words_fall_on_the_same_side_whatever_their_dress():
    for text in ("Take losartan, please.", "Start E11.9", "ok"):
        assert side_of_text(text) == side_of_text(f"  {text.upper()}!! ")


def test_sides_are_shared_out_as_meant():
    sides = [side_of_text(f"sentence number {i}") for i in range(3000)]
    assert sides.count("train") / 3000 == pytest.approx(0.7, abs=0.03)
    assert sides.count("test") / 3000 == pytest.approx(0.2, abs=0.03)


def test_no_sentence_is_both_trained_on_and_tested_on(plan):
    slots, config = plan
    stage = WriteTranscript(config.transcripts)
    texts = {}
    for slot in slots:
        (written,) = stage.on_batch([Utterance(slot)])
        if not isinstance(written, RejectedError):
            texts.setdefault(side_of_split(slot.split), set()).add(written.transcript.text.casefold())
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]


def test_held_out_terms_patterns_and_voices_are_never_trained_on(plan):
    slots, _ = plan
    by_split = {}
    for slot in slots:
        by_split.setdefault(slot.split, []).append(slot)
    trained = by_split["train"]
    speakers = {slot.voice.name.partition("+")[2] for slot in trained}
    for split, members in by_split.items():
        if split != "train":
            assert not speakers & {slot.voice.name.partition("+")[2] for slot in members}, split
    assert not {s.term.text for s in trained if s.term} & {s.term.text for s in by_split["test_unseen_terms"]}
    assert not {s.prompt for s in trained} & {s.prompt for s in by_split["test_unseen_patterns"]}
    assert {s.term.text for s in by_split["test"]} <= {s.term.text for s in trained if s.term}


def test_lists_teach_several_terms_of_a_category_and_are_never_tested(plan):
    slots, _ = plan
    lists = [slot for slot in slots if slot.companions]
    assert {slot.split for slot in lists} == {"train"}
    for slot in lists:
        together = [slot.term, *slot.companions]
        assert len({term.text for term in together}) == len(together)
        assert len({term.category for term in together}) == 1
    assert 0.1 < len(lists) / len([s for s in slots if s.split == "train" and s.term]) < 0.4


def test_a_category_of_one_term_gets_no_lists():
    config = SynthesisConfig(manifests=ManifestsConfig(sizes=SizesConfig(train_per_term=30)))
    planner = Planner(config, Lexicon([Term("losartan", "drug"), Term("widget", "gadget")], [Term("x", "drug")]))
    slots = list(planner.first())
    assert not any(slot.companions for slot in slots)


def test_each_term_gets_its_share_by_weight(plan):
    slots, _ = plan
    counts, weights = {}, {}
    for slot in slots:
        if slot.split == "train" and slot.term:
            counts[slot.term.text] = counts.get(slot.term.text, 0) + 1
            weights[slot.term.text] = slot.term.weight
    assert len(counts) == 30
    assert all(abs(counts[term] - 10 * weights[term]) <= 1 for term in counts)


def test_the_plan_is_the_same_each_time_and_its_slots_are_distinct(plan):
    slots, config = plan
    planner = Planner(config, open_lexicon(config.lexicon))
    assert slots == list(planner.first())
    assert planner.slots == len(slots)
    assert len({slot.slot_id for slot in slots}) == len(slots)


def test_another_seed_plans_other_slots(plan):
    slots, config = plan
    other = Planner(config.model_copy(update={"seed": 1}), open_lexicon(config.lexicon)).first()
    assert not {slot.slot_id for slot in slots} & {slot.slot_id for slot in other}


def test_what_came_to_nothing_is_planned_again_as_another_slot_of_the_same_kind(plan):
    slots, config = plan
    planner = Planner(config, open_lexicon(config.lexicon))
    short = slots[::40]
    again = list(planner.again(short, 1))
    assert not {slot.slot_id for slot in again} & {slot.slot_id for slot in slots}
    for before, after in zip(short, again, strict=True):
        assert (after.split, after.style, after.term) == (before.split, before.style, before.term)
    assert again == list(planner.again(short, 1))
    assert {slot.slot_id for slot in planner.again(short, 2)}.isdisjoint(slot.slot_id for slot in again)


def settings(**transcripts):
    return SynthesisConfig(
        lexicon=LexiconConfig(take=12, held_out=6),
        transcripts=TranscriptsConfig(**transcripts),
        manifests=ManifestsConfig(sizes=SizesConfig(train_per_term=10, test_unseen_patterns=20)),
    )


def test_styles_get_their_shares_and_dialogues_two_people_of_the_split():
    config = settings(styles={"clinical_en": 3, "dialogue_en": 1})
    slots = list(Planner(config, open_lexicon(config.lexicon)).first())
    train = [slot for slot in slots if slot.split == "train"]
    dialogues = [slot for slot in train if slot.style == "dialogue_en"]
    assert len(dialogues) / len(train) == pytest.approx(0.25, abs=0.01)
    for slot in dialogues:
        assert [voice.role for voice in slot.cast] == ["clinician", "patient"]
        assert len({voice.name.partition("+")[2] for voice in slot.cast}) == 2


def test_english_terms_in_mandarin_are_said_by_the_same_speaker_in_both_languages():
    config = settings(styles={"clinical_zh": 1}, everyday="everyday_zh")
    planner = Planner(config, open_lexicon(config.lexicon))
    stage = WriteTranscript(config.transcripts)
    spans = 0
    for slot in planner.first():
        if slot.style != "clinical_zh":
            continue
        assert [voice.language for voice in slot.cast] == ["zh", "en"]
        assert len({voice.name.partition("+")[2] for voice in slot.cast}) == 1
        (written,) = stage.on_batch([Utterance(slot)])
        if not isinstance(written, RejectedError):
            languages = {span.language for span in written.transcript.spans}
            assert languages == {"zh", "en"}
            assert slot.term.text in written.transcript.text
            spans += 1
    assert spans > 50


def test_a_style_that_there_is_not_is_refused_with_those_that_there_are():
    config = settings(styles={"clinical_fr": 1})
    with pytest.raises(UserError, match=r"no style 'clinical_fr'; it has .*clinical_en.*dialogue_en"):
        Planner(config, open_lexicon(config.lexicon))


def test_everyday_speech_in_a_style_with_terms_is_refused():
    config = settings(everyday="clinical_en")
    with pytest.raises(UserError, match=r"everyday: the sentences of clinical_en have terms; everyday_en has none"):
        Planner(config, open_lexicon(config.lexicon))


def test_terms_of_another_language_than_the_styles_are_refused_with_the_reason():
    config = settings(styles={"clinical_en": 1})
    with pytest.raises(UserError, match=r"no style takes '氯沙坦' \(zh\); add a style of that language"):
        Planner(config, Lexicon([Term("losartan", "drug"), Term("氯沙坦", "drug", "zh")], []))


def test_a_pattern_without_enough_sentences_is_rejected_with_the_side_that_it_lacks(slot):
    stage = WriteTranscript(TranscriptsConfig(max_draws=1))
    pattern = next(iter(load_grammar("clinical_en").patterns))
    outcomes = []
    for seed in range(30):
        outcomes += map(str, stage.on_batch([Utterance(slot(prompt=pattern, split="validation", seed=seed))]))
    assert any("no sentence fell on the validation side of the split" in outcome for outcome in outcomes)


def test_a_sentence_of_training_that_has_a_held_out_term_is_not_taken(slot):
    config = TranscriptsConfig(generator="openai")
    sentences = [f"Start losartan and {other} number {n}." for n in range(20) for other in ("digoxin", "rest")]
    drafts = [Draft(sentence) for sentence in sentences]
    utterance = Utterance(slot(style="dictation_en", prompt="start_treatment"))
    taken = chosen(utterance, drafts, config, [Term("digoxin")])
    assert "digoxin" not in taken.transcript.text
    refused = chosen(utterance, [d for d in drafts if "digoxin" in d.written], config, [Term("digoxin")])
    assert str(refused) in ("a held-out term occurs", "no sentence fell on the train side of the split")
    tested = Utterance(slot(style="dictation_en", prompt="start_treatment", split="test_unseen_terms"))
    assert isinstance(chosen(tested, drafts, config, [Term("digoxin")]), Utterance)
