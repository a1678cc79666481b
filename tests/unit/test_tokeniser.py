import io
import pickle
import subprocess
import sys
import tarfile

import pytest
import sentencepiece
import yaml

from rayapp.asr.tokeniser import PieceTokeniser
from rayapp.errors import UserError

PLAIN = ["the patient takes losartan 5 mg", "no pain at rest", "a1c was 7.2 in may"]
CASED = ["The patient, Mr. Ahmadi, takes Losartan.", "No pain at rest?", "It was fine – 7.2 %!"]
SPANISH = ["el niño está bien", "mañana después de comer", "¿qué pasó?"]
MANDARIN = ["病人今天服用药物", "请给他一片药", "他很好"]


def model(texts, vocabulary_size=60, **settings):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 5),
        model_writer=out,
        model_type="bpe",
        vocab_size=vocabulary_size,
        character_coverage=1.0,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
        **settings,
    )
    return out.getvalue()


def write_nemo(path, tokenizer, **files):
    """A `.nemo` archive with all that a tokeniser needs of one."""
    with tarfile.open(path, "w") as archive:
        for name, data in {"model_config.yaml": yaml.safe_dump({"tokenizer": tokenizer}).encode(), **files}.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def decoded(tokeniser, text):
    (processor,) = tokeniser._processors
    return processor.decode(tokeniser.encode(text))


def test_a_model_without_capitals_is_taught_plain_text():
    tokeniser = PieceTokeniser([model(PLAIN)])
    assert decoded(tokeniser, "No pain, at REST.") == "no pain at rest"
    assert decoded(tokeniser, "  The  pätient takes 5 mg ") == "the patient takes 5 mg"


def test_a_model_with_capitals_is_taught_the_text_as_it_is():
    tokeniser = PieceTokeniser([model(CASED)])
    assert decoded(tokeniser, "The patient, at rest?") == "The patient, at rest?"
    assert decoded(tokeniser, "no café e\u0301") == decoded(tokeniser, "no café \u00e9")


def test_a_model_of_another_language_keeps_its_letters_and_the_punctuation_that_it_knows():
    assert decoded(PieceTokeniser([model(SPANISH)]), "¿Qué pasó, NIÑO?") == "¿qué pasó niño?"
    assert decoded(PieceTokeniser([model(MANDARIN)]), "请给他一片药。") == "请给他一片药"


@pytest.mark.parametrize(
    ("texts", "text", "missing"),
    [
        (PLAIN, "No pain – at rest, Mr. Kéita!", ""),
        (PLAIN, "takes 病人 in µ 病", "病人µ"),
        (PLAIN, "", ""),
        (CASED, "The 80 mg", "80g"),
        (SPANISH, "el niño ω", "ω"),
        (MANDARIN, "请给他 Losartan", "losartn"),
    ],
)
def test_characters_that_a_model_cannot_write_are_told(texts, text, missing):
    assert set(PieceTokeniser([model(texts)]).inexpressible(text)) == set(missing)
    assert len(PieceTokeniser([model(texts)]).inexpressible(text)) == len(missing)


def test_bytes_stand_for_what_a_model_with_bytes_has_no_piece_for():
    tokeniser = PieceTokeniser([model(CASED, 320, byte_fallback=True)])
    assert tokeniser.inexpressible("病 80") == ""
    assert decoded(tokeniser, "病 80") == "病 80"


def test_of_several_languages_a_text_gets_the_one_that_can_write_it():
    english, mandarin = model(PLAIN), model(MANDARIN)
    both = PieceTokeniser([english, mandarin])
    size = sentencepiece.SentencePieceProcessor(model_proto=english).get_piece_size()
    assert both.encode("no pain at rest") == PieceTokeniser([english]).encode("no pain at rest")
    assert both.encode("请给他一片药") == [size + n for n in PieceTokeniser([mandarin]).encode("请给他一片药")]
    assert both.inexpressible("no pain") == ""


def test_it_travels_to_workers():
    tokeniser = PieceTokeniser([model(PLAIN), model(MANDARIN)])
    copy = pickle.loads(pickle.dumps(tokeniser))  # noqa: S301
    for text in ("no pain", "请给他一片药", "Ω"):
        assert copy.encode(text) == tokeniser.encode(text)
        assert copy.inexpressible(text) == tokeniser.inexpressible(text)


def test_it_is_read_from_an_archive_without_torch_or_nemo(tmp_path):
    settings = {"type": "bpe", "model_path": "nemo:1_t.model"}
    path = write_nemo(tmp_path / "a.nemo", settings, **{"1_t.model": model(PLAIN)})
    script = (
        "import sys; from pathlib import Path; from rayapp.asr.tokeniser import PieceTokeniser\n"
        "print(PieceTokeniser.open(Path(sys.argv[1])).encode('no pain'), *({'torch', 'nemo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(PieceTokeniser([model(PLAIN)]).encode("no pain"))


def test_an_archive_may_have_a_model_for_each_language(tmp_path):
    languages = {name: {"type": "bpe", "model_path": f"nemo:{name}.model"} for name in ("en", "zh")}
    files = {"zh.model": model(MANDARIN), "en.model": model(PLAIN)}
    opened = PieceTokeniser.open(write_nemo(tmp_path / "a.nemo", {"type": "agg", "langs": languages}, **files))
    assert opened.encode("他很好") == PieceTokeniser([files["en.model"], files["zh.model"]]).encode("他很好")


def test_what_has_no_such_tokeniser_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has a tokenizer of type 'wpe'; valid are SentencePiece's"):
        PieceTokeniser.open(write_nemo(tmp_path / "a.nemo", {"type": "wpe", "vocab_path": "nemo:v.txt"}))
    for path in (write_nemo(tmp_path / "b.nemo", None), tmp_path / "none.nemo"):
        with pytest.raises(UserError, match="has "):
            PieceTokeniser.open(path)
