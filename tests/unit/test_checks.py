import numpy as np
import pytest

from pipelines.transcripts.checks import problem
from pipelines.transcripts.config import ChecksConfig
from pipelines.transcripts.grammar import load_grammar
from rayapp.records import Term

GOOD = "Please start losartan 50 mg daily."


@pytest.fixture
def wrong(slot):
    """What is wrong with a text; by default for a slot about losartan."""

    def check(text, term="losartan", term_language="en", language="en", companions=(), by_words=False, **config):
        about = Term(term, language=term_language) if term else None
        config = ChecksConfig(language=by_words, **config)
        return problem(text, slot(term=about, companions=companions), language, config)

    return check


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "Losartan’s dose was halved, “for now”, after the fall (see above).",
        'She said: "Two losartans a day?"',
        "BP 140/90 on losartan 50 mg q8h; K+ 4.1, temp. 38.5 °C, ≥ 5% weight loss.",
        "Losartan 25 µg & a β-blocker – no, it's fine…",
    ],
)
def test_ordinary_sentences_pass(wrong, text):
    assert wrong(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Please start valsartan.", "the term does not occur"),
        ("Take losartanium daily.", "the term does not occur"),
        ("Give [DRUG], I mean losartan.", "placeholder"),
        ("Start {term} or losartan.", "placeholder"),
        ("Mrs. XXXX takes losartan.", "placeholder"),
        ("Ask <name> about losartan.", "placeholder"),
        ("Start **losartan** today.", "marked up"),
        ("1. Start losartan today.", "list"),
        ("- Start losartan today.", "list"),
        ("Start losartan today.\nStop it tomorrow.", "list"),
        ("Start losartan today 😊.", "the character '😊'"),
        ("Start losartan\x07 today.", "a control character"),
        ("Start losartan\u200b today.", "a control character"),
        ("Начать losartan сегодня.", "cyrillic letters"),
        ("Start losartan 五十毫克.", "cjk letters"),
        ('He said "start losartan.', "quotation mark"),
        ("He said “start losartan.", "quotation mark"),
        ("Start losartan (fifty milligrams.", "bracket"),
        ("Losartan is good " * 5, "repeats itself"),
        ("Start losartan nowwwwwwww.", "repeats itself"),
    ],
)
def test_what_is_no_sentence_about_the_term_is_refused_with_its_reason(wrong, text, reason):
    assert reason in wrong(text)


def test_a_term_may_be_inflected(wrong):
    assert wrong("He was intubated at once.", term="intubate") is None
    assert wrong("No biopsies were taken.", term="biopsy") is None


def test_every_companion_must_occur(wrong):
    text = "He takes losartan and warfarin."
    assert wrong(text, companions=(Term("warfarin"),)) is None
    assert wrong(text, companions=(Term("warfarin"), Term("apixaban"))) == "a term does not occur"


def test_a_term_may_hold_what_a_sentence_may_not(wrong):
    assert wrong("The [18F]FDG scan is on Monday.", term="[18F]FDG") is None


def test_the_length_is_counted_in_words_and_in_characters_where_there_are_no_spaces(wrong):
    assert wrong(GOOD, min_words=6) is None
    assert wrong(GOOD, min_words=7) == "6 words; 7 to 120 are allowed"
    assert wrong("开始服用 losartan 五十毫克。", language="zh", min_words=9, max_words=9) is None
    assert wrong("", term=None) == "0 words; 1 to 120 are allowed"


def test_latin_terms_in_mandarin_need_no_space_around_them(wrong):
    assert wrong("开始服用losartan五十毫克，复查CT。", language="zh") is None
    assert wrong("开始服用valsartan五十毫克。", language="zh") == "the term does not occur"


def test_letters_of_the_terms_language_are_allowed(wrong):
    assert wrong("Она принимает losartan.", language="ru") is None
    assert wrong("Она принимает аспирин.", term="аспирин", term_language="ru", language="ru") is None
    assert wrong("She takes аспирин.", term="аспирин", term_language="ru") is None


def test_a_sentence_that_is_wholly_in_another_language_is_refused_whatever_the_settings(wrong):
    assert wrong(GOOD, language="zh") == "no word of it is in zh"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Er sagte: „Bitte Losartan“.", "de"),
        ("Il a dit : « du losartan ».", "fr"),
        ("¿Toma losartan? ¡Sí!", "es"),
        ("他说“开始服用 losartan”。", "zh"),
    ],
)
def test_each_languages_own_punctuation_passes(wrong, text, language):
    assert wrong(text, language=language) is None


SENTENCES = {
    "en": [
        "Patient denies chest pain.", "Continue metformin 500 mg BID.", "NPO after midnight.",
        "Creatinine 1.8, potassium 5.2.", "Metoprolol, carvedilol and propranolol.", "BP 140/90, HR 72.",
        "Echocardiogram tomorrow morning.", "Can you pick up some milk?",
        "Lungs clear bilaterally.", "Sigmoid diverticulosis without diverticulitis.",
    ],
    "de": [
        "Der Patient klagt über Brustschmerzen.", "Nüchtern ab Mitternacht.", "Keine Allergien bekannt.",
        "Die Lunge ist beidseits frei.", "Zwei Tabletten zum Essen einnehmen.", "Kreatinin 1,8, Kalium 5,2.",
        "Morgen früh Echokardiographie.", "Kannst du Milch mitbringen?",
    ],
    "fr": [
        "Le patient se plaint de douleurs thoraciques.", "À jeun après minuit.", "Pas d'allergie connue.",
        "Les poumons sont clairs.", "Prendre deux comprimés au repas.", "Rythme sinusal normal.",
        "Échographie cardiaque demain matin.", "Tu peux acheter du lait ?",
    ],
    "es": [
        "El paciente refiere dolor torácico.", "Ayuno desde medianoche.", "Sin alergias conocidas.",
        "Pulmones limpios.", "Tome dos tabletas con comida.", "Alta con prednisona.", "Se queja de palpitaciones.",
        "¿Puedes comprar leche?",
    ],
    "zh": ["患者主诉胸痛。", "午夜后禁食。", "头颅 MRI 平扫。", "你能买点牛奶吗？"],
}  # fmt: skip


@pytest.mark.parametrize("language", SENTENCES)
def test_short_sentences_are_taken_for_what_they_are(wrong, language):
    refused = [text for text in SENTENCES[language] if wrong(text, term=None, language=language, by_words=True)]
    assert not refused


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_in_another_language_are_mostly_noticed(wrong, language):
    others = [text for other, texts in SENTENCES.items() if other != language for text in texts]
    noticed = [bool(wrong(text, term=None, language=language, by_words=True)) for text in others]
    assert sum(noticed) >= 0.8 * len(others)


def test_a_language_that_nobody_can_tell_is_not_checked(wrong):
    assert wrong("Sentence about losartan.", language="tlh", by_words=True) is None


@pytest.mark.parametrize("name", ["clinical_en", "everyday_en", "dialogue_en", "clinical_zh", "everyday_zh"])
def test_what_the_grammars_write_passes(slot, name):
    grammar, rng = load_grammar(name), np.random.default_rng(5)
    for pattern in grammar.patterns.values():
        term = Term("mitral valve", pattern.category) if pattern.category else None
        companions = tuple(Term(name) for name in ("aortic arch", "trachea")[: pattern.companions])
        text = grammar.write(pattern.pattern_id, term, rng, companions).text
        about = slot(term=term, companions=companions)
        assert problem(text, about, grammar.language, ChecksConfig(language=True)) is None
