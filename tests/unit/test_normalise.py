import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayapp.text.normalise import joined, normalise

SAME = [
    ("HbA1c was 7.5%", "hb a one c was seven point five percent", "h b a 1 c was 7.50 percent"),
    ("BP 140/90", "b p one forty over ninety", "BP 140 over 90"),
    ("give 0.5 mg", "give .5mg", "give point five milligrams", "Give zero point five mg."),
    ("50mg", "fifty milligrams", "50 milligram"),
    ("a 5 mm lesion", "a five millimeter lesion", "a 5 millimetre lesion"),
    ("stage IV", "stage four", "stage 4"),
    ("stage IIIb", "stage three b", "stage 3B"),
    ("L4-L5 disc", "l four l five disc", "L4-5 disk"),
    ("b.i.d. dosing", "BID dosing", "b i d dosing"),
    ("q8h", "every 8 hours", "every eight hours"),
    ("SpO2 is 95%", "s p o two is ninety five percent"),
    ("COVID-19", "covid nineteen", "covid 19"),
    ("E11.9", "e eleven point nine", "e11.9"),
    ("1,000 mg", "1000 milligrams", "one thousand mg"),
    ("5-10 mg", "five to ten milligrams"),
    ("at 8:30", "at eight thirty"),
    ("5 mcg", "5 µg", "five micrograms"),
    ("37.5°C", "37.5 degrees celsius"),
    ("vitamin B12", "vitamin b twelve"),
    ("a 5 day course", "a five-day course"),
    ("MRI", "m r i", "M.R.I."),
    ("take 1 tablet", "take one tablet"),
    ("T2DM", "t two d m"),
    ("losartan PO", "losartan p.o.", "losartan p o"),
    ("TSH (thyroid) low", "t s h thyroid low"),
    ("a 5 x 3 cm mass", "a five by three centimeter mass"),
    ("check a CBC a week after", "check a cbc a week after", "check a c b c a week after"),
    ("an X-ray", "an x ray"),
    (".1 mg", "0.1 mg", "point one mg", "zero point one milligrams"),
    ("INR 1.1", "INR one point one"),
    ("1.0 mg", "1 mg", "one mg"),
    ("1.5 mg", "one point five milligrams"),
    ("10,5 mg", "10.5 mg", "ten point five mg"),
    ("HER2 positive", "HER2+"),
]
APART = [
    ("15 mg", "50 mg"),
    ("5 mg", "5 mcg"),
    ("0.5 mg", "5 mg"),
    ("2.05 mg", "2.5 mg"),
    ("hypotension", "hypertension"),
    ("left knee", "right knee"),
    ("stage II", "stage III"),
    ("HbA1c", "HbA2"),
    ("140/90", "140/80"),
    ("no fever", "fever"),
    ("every 8 hours", "every 6 hours"),
    ("B12", "B6"),
    (".1 mg", "1 mg"),
    ("0.1 mg", "1 mg"),
    ("1.5 mg", "15 mg"),
    ("take two 5 mg tablets", "take 25 mg tablets"),
    ("two 50 mcg puffs", "250 mcg puffs"),
    ("HER2+", "HER2-"),
    ("Rh+", "Rh-"),
    ("10,5 mg", "105 mg"),
]


@pytest.mark.parametrize("forms", SAME, ids=lambda forms: forms[0])
def test_what_sounds_the_same_is_compared_as_the_same(forms):
    assert len({normalise(form) for form in forms}) == 1, [normalise(form) for form in forms]


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_matters_to_a_patient_stays_apart(one, other):
    assert normalise(one) != normalise(other)


def test_codes_count_as_one_word_where_whispers_normaliser_takes_them_apart():
    assert normalise("HbA1c and E11.9") == "hba1c and e11.9"
    assert normalise("HbA1c and E11.9", "normalised") == "hba one c and e 11.9"


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith can't come, 'cause Dr. Jones won't",
        "we'll see the pt. on St. Mary's ward",
        "y'all wanna rest",
        "nothing of the kind",
    ],
)
def test_whispers_normaliser_is_asked_for_all_that_it_does(text):
    from whisper_normalizer.english import EnglishTextNormalizer

    assert normalise(text, "normalised") == " ".join(EnglishTextNormalizer()(text).split())


def test_raw_text_keeps_everything_but_its_spaces():
    assert normalise(" Take  50 mg,\nplease! ", "raw") == "Take 50 mg, please!"


def test_chinese_is_taken_apart_into_characters_around_english_words():
    heard = normalise("开始服用Losartan 50 mg，每天两次。", "medical", "zh")
    assert heard == "开 始 服 用 losartan 五 十 毫 克 每 天 两 次"
    assert joined(heard) == "开始服用losartan五十毫克每天两次"


def test_other_languages_keep_their_letters_and_marks():
    assert normalise("Prüfen Sie: die Größe!", "medical", "de") == "prüfen sie die größe"
    assert normalise("दवा दें", "medical", "hi") == "दवा दें"


@given(st.text(alphabet="abcdeiomp 0123459.,/%-()AIVXCB'µ中"))
def test_normalising_any_text_ends_and_changes_nothing_the_second_time_it_is_asked(text):
    assert normalise(text) == normalise(text)
    assert "  " not in normalise(text)


def test_every_decimal_is_as_it_is_said_and_unlike_every_other():
    written = [f"{whole}.{part}" for whole in range(13) for part in range(10)]
    forms = [normalise(f"give {number} mg now") for number in written]
    assert forms == [f"give {number.removesuffix('.0')} milligram now" for number in written]
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    said = [f"give {words[whole]} point {words[part]} milligrams now" for whole in range(13) for part in range(10)]
    assert [normalise(text) for text in said] == forms


@pytest.mark.parametrize("language", ["en", "EN", "en_US", "en-GB", "english"])
def test_english_goes_by_several_names(language):
    assert normalise("HbA1c 7.5%", "medical", language) == "hba1c 7.5 percent"


def test_other_languages_keep_what_brackets_hold_and_their_decimals():
    assert normalise("Metoprolol (Beloc) 0,5 mg", "medical", "de") == "metoprolol beloc 0.5 mg"


def test_empty_texts_stay_empty():
    assert [normalise("", how) for how in ("raw", "normalised", "medical")] == ["", "", ""]
    assert normalise("...") == ""
