"""A model in other tools' formats, read by those tools."""

import numpy as np
import pytest
import torch

from pipelines.training.export import FORMS, Card, export, trained_model
from rayapp.errors import UserError

pytestmark = pytest.mark.slow

CARD = Card(
    name="ward-asr",
    licence="cc-by-4.0",
    languages=("en",),
    lineage="Synthetic speech of 12 terms, manifest `speech` (key 0123).",
    base_model="nvidia/parakeet-tdt-0.6b-v2",
    figures={"word error rate, test": 0.0512},
)
TEXTS = ["please start losartan today", "she has water at night", "we stopped it last week"]


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    from rayapp.asr.nemo import NemoRecogniser
    from rayapp.asr.recipes import fastconformer_tdt_small, train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, folder, 40)
    torch.manual_seed(0)
    return NemoRecogniser.build(fastconformer_tdt_small(folder))


@pytest.fixture(scope="module")
def training(recogniser, tmp_path_factory):
    """The folder of a training, as far as its model goes."""
    folder = tmp_path_factory.mktemp("training")
    recogniser.save(folder / "model.nemo")
    return folder


@pytest.fixture(scope="module")
def features(recogniser):
    """Mel features of two recordings, and how many frames each has."""
    audio = torch.randn(2, 24000, generator=torch.Generator().manual_seed(0)) * 0.1
    return recogniser.model.preprocessor.eval()(input_signal=audio, length=torch.tensor([24000, 18000]))


@pytest.fixture(scope="module")
def encoded(recogniser, features):
    with torch.no_grad():
        return recogniser.model.encoder.eval()(audio_signal=features[0], length=features[1])


def test_nemo_reads_its_own_format_and_the_hub_the_card(training, recogniser, features, tmp_path):
    from huggingface_hub import ModelCard

    from rayapp.asr.nemo import NemoRecogniser

    export(training, tmp_path / "out", "nemo", CARD)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ward-asr.nemo", "README.md", "_COMPLETE"}
    audio = [np.random.default_rng(0).normal(0, 0.1, 20000).astype(np.float32)]
    loaded = NemoRecogniser.load(tmp_path / "out" / "ward-asr.nemo")
    assert loaded.transcribe(audio, times=True) == recogniser.transcribe(audio, times=True)

    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.language == ["en"]
    assert card.data.library_name == "nemo"
    assert card.data.base_model == "nvidia/parakeet-tdt-0.6b-v2"
    assert "| word error rate, test | 0.0512 |" in card.text
    assert CARD.lineage in card.text

    written = (tmp_path / "out" / "README.md").stat().st_mtime_ns
    export(training / "model.nemo", tmp_path / "out", "nemo", CARD)
    assert (tmp_path / "out" / "README.md").stat().st_mtime_ns == written


def test_torchscript_gives_what_the_model_gives(training, features, encoded, tmp_path):
    export(training, tmp_path / "out", "torchscript", CARD)
    scripted = torch.jit.load(tmp_path / "out" / "encoder-model.ts")
    output, lengths = scripted(*features)
    torch.testing.assert_close(output, encoded[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(lengths, encoded[1])
    names = {path.name.split("_", 1)[-1] for path in (tmp_path / "out").iterdir()}
    assert {"config.yaml", "tokenizer.model", "joint-model.ts"} <= names
    assert 'torch.jit.load("encoder-model.ts")' in (tmp_path / "out" / "README.md").read_text()


def test_onnx_gives_what_the_model_gives(training, features, encoded, tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator

    export(training, tmp_path / "out", "onnx", CARD)
    graph = onnx.load(tmp_path / "out" / "encoder-model.onnx")
    onnx.checker.check_model(graph)
    inputs = {"audio_signal": features[0].numpy(), "length": features[1].numpy()}
    output, lengths = ReferenceEvaluator(graph).run(None, inputs)
    np.testing.assert_allclose(output, encoded[0].numpy(), rtol=1e-3, atol=1e-4)
    assert lengths.tolist() == encoded[1].tolist()
    assert (tmp_path / "out" / "decoder_joint-model.onnx").is_file()


def test_a_whisper_is_written_for_transformers(tmp_path):
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from rayapp.asr.tiny_whisper import tiny_whisper

    tiny_whisper(tmp_path / "training" / "model", TEXTS)
    export(tmp_path / "training", tmp_path / "out", "transformers", CARD)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    same = WhisperForConditionalGeneration.from_pretrained(tmp_path / "training" / "model")
    torch.testing.assert_close(model.state_dict(), same.state_dict())
    assert WhisperProcessor.from_pretrained(tmp_path / "out").tokenizer.encode("losartan")
    assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UserError, match=r"is a Whisper, which cannot be written as onnx; valid: transformers"):
        export(tmp_path / "training", tmp_path / "onnx", "onnx", CARD)


def test_what_cannot_be_exported_is_said(training, tmp_path):
    with pytest.raises(UserError, match=f"there is no form 'gguf'; known: {', '.join(FORMS)}"):
        export(training, tmp_path / "out", "gguf", CARD)
    with pytest.raises(UserError, match=r"one of NeMo's models, which .* as transformers; valid: nemo, onnx, torch"):
        export(training, tmp_path / "out", "transformers", CARD)
    with pytest.raises(UserError, match="is a folder without a model"):
        trained_model(tmp_path)
    assert not (tmp_path / "out").exists()
