import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.transcripts.grammar import load_grammar
from pipelines.transcripts.occurrences import occurrences
from pipelines.transcripts.verbalise import spoken_form, verbalise
from rayapp.records import Term

ENGLISH = {
    # doses and other quantities
    "500 mg": "five hundred milligrams",
    "500mg": "five hundred milligrams",
    "1 mg": "one milligram",
    "2.5 mL": "two point five milliliters",
    "a 500 mg tablet": "a five hundred milligram tablet",
    "the 500-mg tablets": "the five hundred milligram tablets",
    "0.5 mg/kg/day": "zero point five milligrams per kilogram per day",
    "45 mL/min/1.73 m²": "forty five milliliters per minute per one point seven three square meters",
    "25 µg or 25 μg": "twenty five micrograms or twenty five micrograms",
    "100 mcg": "one hundred micrograms",
    "1,200 mg": "one thousand two hundred milligrams",
    "given in mg/kg": "given in milligrams per kilogram",
    "50%": "fifty percent",
    "38.5 °C": "thirty eight point five degrees Celsius",
    "12.3 x10^9/L": "twelve point three times ten to the ninth per liter",
    "2 x 3 cm": "two by three centimeters",
    "$20": "twenty dollars",
    # ranges, repetitions and ratios
    "3-5 days": "three to five days",
    "3–5 mg": "three to five milligrams",
    "5 to 10 mg": "five to ten milligrams",
    "x2": "times two",
    "2x daily": "two times daily",
    "2 x 500 mg": "two times five hundred milligrams",
    "1:1000": "one to one thousand",
    "a 10-day course": "a ten-day course",
    # pressures, scores and fractions
    "140/90": "one forty over ninety",
    "105/60 mmHg": "one oh five over sixty millimeters of mercury",
    "200/100": "two hundred over one hundred",
    "pain 7/10": "pain seven out of ten",
    "vision 20/40": "vision twenty forty",
    "1/2 tablet": "one half tablet",
    "1½ tablets": "one and a half tablets",
    # how often
    "q8h": "every eight hours",
    "q6-8h": "every six to eight hours",
    "q1h": "every hour",
    "Q 4 hours": "every four hours",
    "qhs": "at bedtime",
    "qAM": "every morning",
    "BID": "B I D",
    "b.i.d. with food": "B I D with food",
    "PRN": "P R N",
    # times, dates and years
    "8:30": "eight thirty",
    "8:05 p.m.": "eight oh five P M.",
    "8:00 AM": "eight o'clock A M",
    "8 am": "eight A M",
    "14:00": "fourteen hundred",
    "0600": "oh six hundred",
    "in 1998": "in nineteen ninety eight",
    "since 2019": "since twenty nineteen",
    "the 1990s": "the nineteen nineties",
    "in his 60s": "in his sixties",
    "3/14/2024": "March fourteenth twenty twenty four",
    "2024-03-14": "March fourteenth twenty twenty four",
    "March 14": "March fourteenth",
    "the 21st": "the twenty first",
    # Roman numerals, codes and other numbers with letters
    "type II": "type two",
    "stage IIIB": "stage three B",
    "stage II-III": "stage two to three",
    "CN VII": "C N seven",
    "HbA1c": "H B A one C",
    "vitamin B12": "vitamin B twelve",
    "COVID-19": "covid nineteen",
    "L4-L5": "L four L five",
    "C5/6": "C five six",
    "E11.9": "E11.9",
    "J45.909": "J45.909",
    # abbreviations
    "CT and MRIs": "C T and M R I's",
    "MRSA after CABG": "mersa after cabbage",
    "DO NOT stop": "DO NOT stop",
    "Dr. Smith": "Doctor Smith",
    "s/p surgery w/o pain": "status post surgery without pain",
    # signs
    "<5": "less than five",
    "≥ 90%": "at least ninety percent",
    "+/- 2": "plus or minus two",
    "T-score -2.5": "T-score minus two point five",
    "2+ edema": "two plus edema",
    "β-blocker": "beta-blocker",
    "#30": "number thirty",
    # numbers as such
    "HR 105": "H R one hundred five",
    "0.25": "zero point two five",
    "call 555-1234": "call five five five, one two three four",
    "8345521": "eight three four five five two one",
}
MANDARIN = {
    "口服500 mg": "口服五百毫克",
    "2.5 mL": "二点五毫升",
    "5 mg/天": "五毫克每天",
    "10 mg/kg": "十毫克每公斤",
    "每次2片": "每次两片",
    "12次": "十二次",
    "第2天": "第二天",
    "2型糖尿病": "二型糖尿病",
    "2月": "二月",
    "2个月": "两个月",
    "3-5天": "三到五天",
    "50%": "百分之五十",
    "1/2片": "二分之一片",
    "血压140/90 mmHg": "血压一百四十、九十毫米汞柱",
    "体温38.5℃": "体温三十八点五摄氏度",
    "2024年3月": "二零二四年三月",
    "8:30": "八点三十分",
    "8:05": "八点零五分",
    "q8h": "每八小时一次",
    "用药 bid": "用药每日两次",
    "血氧>95%": "血氧大于百分之九十五",
    "105": "一百零五",
    "2,000 mL": "两千毫升",
    "12500": "一万两千五百",
    "维生素B12": "维生素 B12",
}


@pytest.mark.parametrize(("written", "spoken"), ENGLISH.items())
def test_what_is_said_in_english(written, spoken):
    assert verbalise(written, "en") == spoken


@pytest.mark.parametrize(("written", "spoken"), MANDARIN.items())
def test_what_is_said_in_mandarin(written, spoken):
    assert verbalise(written, "zh") == spoken


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*ENGLISH, "Take", "and then", "."]), min_size=1, max_size=5).map(" ".join))
def test_what_is_spoken_english_already_stays(written):
    spoken = verbalise(written, "en")
    assert verbalise(spoken, "en") == spoken


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*MANDARIN, "患者", "复查"]), min_size=1, max_size=5).map("，".join))
def test_what_is_spoken_mandarin_already_stays(written):
    spoken = verbalise(written, "zh")
    assert verbalise(spoken, "zh") == spoken


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_can_be_read(text):
    for language in ("en", "zh", "de"):
        verbalise(text, language)


@pytest.mark.parametrize("name", ["clinical_en", "everyday_en", "dialogue_en"])
def test_a_grammar_writes_words_so_only_its_abbreviations_are_read_otherwise(name):
    grammar = load_grammar(name)
    for alternative in {a for alternatives in grammar.slots.values() for a in alternatives if "{" not in a}:
        if all(word[1:].islower() or len(word) == 1 for word in alternative.split()):
            assert verbalise(alternative, "en") == alternative


def test_sentences_in_capitals_are_not_spelled_out():
    assert verbalise("PATIENT TOOK 5 MG OF IT", "en") == "Patient took five milligrams of it"


def test_languages_without_rules_are_left_to_their_voices():
    assert verbalise("50 mg täglich", "de") == "50 mg täglich"


def test_ipa_between_slashes_stays():
    assert verbalise("take /ləˈsɑːtən/ 5 mg", "en") == "take /ləˈsɑːtən/ five milligrams"


LEXICON = [
    Term("losartan", pronunciation="low-sartan"),
    Term("stent", pronunciation="/ˈstɛnt/"),
    Term("biopsy", pronunciation="by-opsee"),
    Term("sciatic nerve", pronunciation="sigh-attic nerve"),
    Term("nerve", pronunciation="nurv"),
    Term("E11.9", pronunciation="E eleven point nine"),
    Term("CT"),
]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Losartan 50 mg.", "low-sartan fifty milligrams."),
        ("both losartans", "both low-sartans"),
        ("losartan’s dose", "low-sartan's dose"),
        ("He was stented, stents in place.", "He was /ˈstɛntɪd/, /ˈstɛnts/ in place."),
        ("two biopsies", "two by-opsees"),
        ("the sciatic  nerve and a nerve", "the sigh-attic nerve and a nurv"),
        ("code E11.9.", "code E eleven point nine."),
        ("code E11.95", "code E11.95"),
        ("CT of the head", "C T of the head"),
        ("losartanium", "losartanium"),
    ],
)
def test_terms_are_said_as_the_lexicon_has_them_endings_included(written, spoken):
    assert spoken_form(written, "en", LEXICON) == spoken


def test_a_term_beside_chinese_is_found_without_a_space():
    assert spoken_form("服用losartan治疗", "zh", LEXICON) == "服用low-sartan治疗"


@pytest.mark.parametrize(
    ("term", "forms", "others"),
    [
        ("scan", ["scan", "Scans", "scanned", "scanning", "scan's"], ["scandal", "rescan"]),
        ("intubate", ["intubates", "intubated", "intubating"], ["intubation"]),
        ("biopsy", ["biopsies", "biopsied", "biopsying"], ["biopsys"]),
        ("abscess", ["abscesses"], ["abscesss"]),
        ("mitral valve", ["Mitral  valves"], ["mitral", "mitralvalve"]),
        ("Crohn's disease", ["Crohn’s disease"], ["Crohns disease"]),
        ("I10", ["I10", "I10."], ["I10.5", "I101", "XI10"]),
        ("氯沙坦", ["服用氯沙坦片"], ["氯沙"]),
    ],
)
def test_a_term_occurs_in_its_inflected_forms_and_as_a_word_of_its_own(term, forms, others):
    assert all(list(occurrences(form, Term(term))) for form in forms)
    assert not any(list(occurrences(other, Term(term))) for other in others)
