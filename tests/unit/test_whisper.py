"""Whisper behind the recogniser Protocol, on a tiny one with random weights: learning, transcribing, adapters."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayapp.asr.context import NOTHING_KNOWN, Context
from rayapp.asr.recogniser import SpeechBatch
from rayapp.asr.tiny_whisper import tiny_whisper
from rayapp.asr.whisper import LogMel, WhisperRecogniser, WhisperTokeniser
from rayapp.errors import RejectedError, UserError
from rayapp.records import Audio

TEXTS = ("Please start losartan today.", "她今天需要服用 metformin 500 mg。")
SECONDS = 2
"""What the tiny model hears at once."""
ADALORA: dict[str, Any] = {
    "kind": "adalora",
    "rank": 6,
    "target_rank": 2,
    "total_steps": 8,
    "warmup_share": 0.125,
    "final_share": 0.25,
    "interval": 1,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are too small for more to be of use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper") / "tiny"
    tiny_whisper(folder, TEXTS, seconds=SECONDS)
    return folder


@pytest.fixture
def recogniser(base: Path) -> WhisperRecogniser:
    return WhisperRecogniser.load(base)


@pytest.fixture(scope="module")
def taught(base: Path) -> WhisperRecogniser:
    """One that has learnt to tell a low tone from a high one, by a sentence for each."""
    torch.manual_seed(0)
    recogniser = WhisperRecogniser.load(base)
    train(recogniser, steps=90, learning_rate=2e-3)
    return recogniser


def tone(hertz: float, seconds: float = 2.0) -> Audio:
    times = np.arange(int(16_000 * seconds)) / 16_000
    noise = np.random.default_rng(int(hertz)).normal(size=len(times))
    return (0.3 * np.sin(2 * np.pi * hertz * times) + 0.01 * noise).astype(np.float32)


def batch_of(recogniser: WhisperRecogniser, *said: tuple[Audio, str]) -> SpeechBatch:
    pad = torch.nn.utils.rnn.pad_sequence
    audio = [torch.from_numpy(audio) for audio, _ in said]
    tokens = [torch.tensor(recogniser.tokeniser.encode(text)) for _, text in said]
    return SpeechBatch(
        pad(audio, batch_first=True),
        torch.tensor([len(a) for a in audio]),
        pad(tokens, batch_first=True),
        torch.tensor([len(t) for t in tokens]),
        torch.empty(len(said), 0, dtype=torch.int64),
    )


def two_tones(recogniser: WhisperRecogniser) -> SpeechBatch:
    return batch_of(recogniser, (tone(300), TEXTS[0]), (tone(2000, 1.5), TEXTS[1]))


def train(
    recogniser: WhisperRecogniser,
    steps: int,
    learning_rate: float = 1e-2,
    first: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[float]:
    """Steps `first` to `steps`; returns the losses."""
    recogniser.module.train()
    batch = two_tones(recogniser)
    optimizer = optimizer or make_optimizer(recogniser, learning_rate)
    losses = []
    for step in range(first, steps + 1):
        loss = recogniser.module(*batch)
        loss.backward()
        optimizer.step()
        recogniser.after_step(step)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def make_optimizer(recogniser: WhisperRecogniser, learning_rate: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in recogniser.module.parameters() if p.requires_grad], lr=learning_rate)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """What a model of transformers' predicts for a fixed input."""
    features = torch.randn(1, 80, 100 * SECONDS, generator=torch.Generator().manual_seed(1))
    result: torch.Tensor = model.eval()(input_features=features, decoder_input_ids=torch.arange(8)[None]).logits
    return result


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


# Hearing


@pytest.mark.parametrize(("mels", "seconds"), [(80, 0.01), (80, 3.3), (128, 30.0)])
def test_features_are_those_of_transformers_extractor(mels: int, seconds: float) -> None:
    from transformers import WhisperFeatureExtractor

    extractor, audio = WhisperFeatureExtractor(feature_size=mels), tone(440, seconds)
    wanted = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features

    with torch.autocast("cpu", torch.bfloat16):
        features = LogMel(extractor)(torch.from_numpy(audio)[None])

    assert features.shape == (1, mels, 3000)

    torch.testing.assert_close(features, wanted, atol=1e-4, rtol=0)


def test_a_tiny_whisper_learns_two_sentences_and_hears_them_in_order(taught: WhisperRecogniser) -> None:
    low, high = tone(300), tone(2000, 1.5)

    heard = taught.transcribe([high, low, high])

    assert [h.text for h in heard] == [TEXTS[1], TEXTS[0], TEXTS[1]]
    assert taught.transcribe([]) == []


def test_words_have_times_in_order_and_confidences(taught: WhisperRecogniser) -> None:
    low, high = taught.transcribe([tone(300), tone(2000, 1.5)], times=True)

    assert [word.text for word in low.words] == TEXTS[0].split()
    assert "".join(word.text for word in high.words) == TEXTS[1].replace(" ", "")
    for heard, seconds in ((low, 2.0), (high, 1.5)):
        times = [time for word in heard.words for time in (word.start_seconds, word.end_seconds)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= seconds
        assert all(0.5 < word.confidence <= 1 for word in heard.words if word.confidence is not None)
    assert taught.model.config._attn_implementation == "sdpa"


def test_audio_of_a_moment_is_no_problem(taught: WhisperRecogniser) -> None:
    assert len(taught.transcribe([tone(300, 0.01), tone(300, 0)], times=True)) == 2


def test_a_model_without_alignment_heads_gives_no_words(recogniser: WhisperRecogniser) -> None:
    del recogniser.model.generation_config.alignment_heads

    (heard,) = recogniser.transcribe([tone(300)], times=True)

    assert heard.words == ()


def test_audio_above_the_window_is_heard_as_transformers_does(taught: WhisperRecogniser) -> None:
    long, short = tone(300, 7.5), tone(300)
    wanted = taught._extractor(
        long, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest"
    ).input_features
    text = taught._tokenizer.decode(taught.model.generate(wanted)[0], skip_special_tokens=True)

    heard = taught.transcribe([long, short, long], times=True)

    assert heard[0].text == heard[2].text == text.strip()
    assert heard[1].text == TEXTS[0]
    assert heard[0].words
    assert heard[0].words[-1].end_seconds <= 7.5


def test_a_model_in_bfloat16_transcribes(taught: WhisperRecogniser) -> None:
    half = WhisperRecogniser(copy.deepcopy(taught.model), taught._tokenizer, taught._extractor, taught.base)
    half.module.bfloat16()

    (heard,) = half.transcribe([tone(300)], times=True)

    assert heard.text == TEXTS[0]


def test_what_is_known_of_audio_comes_before_what_it_is_to_hear(taught: WhisperRecogniser, monkeypatch: Any) -> None:
    """As transformers' own processor gives it; what is not about an audio does not reach it."""
    from transformers import WhisperProcessor

    given: list[list[int]] = []
    decode = taught.model.model.decoder.forward

    def spied(*, input_ids: torch.Tensor, **others: Any) -> Any:
        if input_ids.shape[1] > 1:
            given.extend(input_ids.tolist())
        return decode(input_ids=input_ids, **others)

    monkeypatch.setattr(taught.model.model.decoder, "forward", spied)
    audio = [tone(300), tone(2000), tone(300, 4.5)]
    alone = taught.transcribe(audio, times=True)
    given.clear()
    context = Context(("losartan", "metformin"), "Today she came for her drugs.")
    heard = taught.transcribe(audio, times=True, contexts=[context, NOTHING_KNOWN, NOTHING_KNOWN])

    for other, before in zip(heard[1:], alone[1:], strict=True):  # in a batch of its own, and rounded otherwise
        assert other.text == before.text
        figures = [[word.confidence for word in each.words] for each in (other, before)]
        assert figures[0] == pytest.approx(figures[1], abs=1e-4)
    told, *others = given
    processor = WhisperProcessor(taught._extractor, taught._tokenizer)
    prompt = processor.get_prompt_ids("Today she came for her drugs. losartan, metformin").tolist()
    assert told[: len(prompt)] == prompt
    assert all(prompt[0] not in each for each in others)
    spoken = [word.text for word in heard[0].words]
    assert spoken == heard[0].text.split()
    assert all(0 <= word.confidence <= 1 for word in heard[0].words if word.confidence is not None)


def test_of_a_long_prompt_the_end_is_told(taught: WhisperRecogniser) -> None:
    (heard,) = taught.transcribe([tone(300)], times=True, contexts=[Context(prompt="losartan " * 500)])
    assert isinstance(heard.text, str)


# Learning


def test_the_loss_is_transformers_own_of_the_text_after_the_prompt(recogniser: WhisperRecogniser) -> None:
    batch = two_tones(recogniser)
    tokenizer, extractor = recogniser._tokenizer, recogniser._extractor
    prompt = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"])
    total, count = 0.0, 0
    for audio, text in ((tone(300), TEXTS[0]), (tone(2000, 1.5), TEXTS[1])):
        tokens = tokenizer(" " + text, add_special_tokens=False).input_ids
        labels = torch.tensor([[-100, -100, -100, *tokens, tokenizer.eos_token_id]])
        inputs = torch.tensor([[*prompt, *tokens]])
        features = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
        loss = recogniser.model(input_features=features, decoder_input_ids=inputs, labels=labels).loss
        total, count = total + float(loss) * (len(tokens) + 1), count + len(tokens) + 1

    assert float(recogniser.module.eval()(*batch)) == pytest.approx(total / count, abs=1e-4)


def test_padding_does_not_change_the_loss(recogniser: WhisperRecogniser) -> None:
    batch = two_tones(recogniser)
    longer = batch._replace(
        audio=torch.nn.functional.pad(batch.audio, (0, 50_000)),
        tokens=torch.nn.functional.pad(batch.tokens, (0, 90)),
    )

    assert float(recogniser.module(*longer)) == pytest.approx(float(recogniser.module(*batch)), abs=1e-5)


def test_what_is_too_long_to_learn_from_is_rejected_with_its_length(recogniser: WhisperRecogniser) -> None:
    assert recogniser.max_seconds == SECONDS
    with pytest.raises(RejectedError, match="at most 32000 samples at once; an utterance has 56000"):
        recogniser.module(*batch_of(recogniser, (tone(300, 3.5), TEXTS[0])))
    assert recogniser.max_labels == 92
    with pytest.raises(RejectedError, match="at most 92 tokens"):
        recogniser.module(*batch_of(recogniser, (tone(300), TEXTS[0] * 20)))


def test_recomputed_activations_leave_loss_and_gradients_as_they_were(recogniser: WhisperRecogniser) -> None:
    batch = two_tones(recogniser)
    recogniser.add_adapter("lora", rank=4)

    def step() -> tuple[float, list[torch.Tensor]]:
        recogniser.module.train().zero_grad()
        loss = recogniser.module(*batch)
        loss.backward()
        return float(loss), [p.grad.clone() for p in recogniser.module.parameters() if p.grad is not None]

    loss, gradients = step()

    assert recogniser.checkpoint_activations() == 4
    again, gradients_again = step()
    assert again == pytest.approx(loss, abs=1e-6)
    assert len(gradients) == 64
    torch.testing.assert_close(gradients_again, gradients)


def test_the_tokeniser_writes_any_text_and_travels_without_a_model(recogniser: WhisperRecogniser) -> None:
    text = "Ωμέγα-3, 0.5 mg/kg 😀"

    tokeniser = pickle.loads(pickle.dumps(recogniser.tokeniser))  # noqa: S301
    tokens = tokeniser.encode(f" {text}\n")

    assert recogniser._tokenizer.decode(tokens) == f" {text}"
    assert max(tokens) < recogniser._tokenizer.eos_token_id
    assert tokeniser.inexpressible(text) == ""
    assert len(pickle.dumps(tokeniser)) < 1_000_000


def test_the_tokeniser_of_a_model_or_an_adapter_opens_without_weights(
    recogniser: WhisperRecogniser, base: Path, tmp_path: Path
) -> None:
    recogniser.add_adapter("lora", rank=2)
    recogniser.save_adapter(tmp_path / "adapter")
    wanted = recogniser.tokeniser.encode(TEXTS[1])

    for folder in (base, tmp_path / "adapter"):
        assert WhisperTokeniser.open(folder).encode(TEXTS[1]) == wanted


def test_what_was_suppressed_can_be_written_once_it_is_taught(
    taught: WhisperRecogniser, recogniser: WhisperRecogniser, tmp_path: Path
) -> None:
    full_stop = taught.tokeniser.encode("today.")[-1]
    taught.model.generation_config.suppress_tokens = [full_stop]
    assert "." not in taught.transcribe([tone(300)])[0].text

    taught.module.train()(*two_tones(taught))

    assert taught.transcribe([tone(300)])[0].text == TEXTS[0]
    taught.save(tmp_path)
    assert WhisperRecogniser.load(tmp_path).transcribe([tone(300)])[0].text == TEXTS[0]


def test_phonemes_cannot_be_taught(recogniser: WhisperRecogniser) -> None:
    with pytest.raises(UserError, match="set phoneme_weight: 0"):
        recogniser.learn_phonemes(40, 0.3)


# Languages


def test_the_decoder_is_told_the_language(base: Path) -> None:
    english, chinese = WhisperRecogniser.load(base), WhisperRecogniser.load(base, language="Chinese")

    assert english.language == "en"
    assert chinese.language == "zh"
    tell = chinese._tokenizer.convert_ids_to_tokens
    assert tell(chinese.module.prompt()) == ["<|startoftranscript|>", "<|zh|>", "<|transcribe|>", "<|notimestamps|>"]
    with pytest.raises(UserError, match=r"language 'klingon'; known: af, am, ar"):
        WhisperRecogniser.load(base, language="klingon")


def test_without_a_language_a_multilingual_model_hears_but_does_not_learn(recogniser: WhisperRecogniser) -> None:
    recogniser.model.generation_config.language = None

    assert len(recogniser.transcribe([tone(300)])) == 1
    with pytest.raises(UserError, match="languages: set the one that it is to learn"):
        recogniser.module(*two_tones(recogniser))


def test_an_english_model_has_no_language_to_be_told(recogniser: WhisperRecogniser) -> None:
    config = recogniser.model.generation_config
    config.is_multilingual, config.language, config.task = False, None, None

    recogniser.language = "en"
    assert len(recogniser.module.prompt()) == 2
    assert len(recogniser.transcribe([tone(300)], times=True)) == 1
    with pytest.raises(UserError, match="knows English alone"):
        recogniser.language = "de"


# Files


def test_a_saved_model_is_read_by_load_and_by_transformers(
    taught: WhisperRecogniser, tmp_path: Path, no_network: None
) -> None:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    taught.save(tmp_path / "saved")

    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.pt"))
    theirs = WhisperForConditionalGeneration.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(theirs), logits(taught.model))
    processor = WhisperProcessor.from_pretrained(tmp_path / "saved")
    features = processor(tone(300), sampling_rate=16_000, return_tensors="pt").input_features
    assert processor.batch_decode(theirs.generate(features), skip_special_tokens=True)[0].strip() == TEXTS[0]
    assert WhisperRecogniser.load(tmp_path / "saved").transcribe([tone(300)])[0].text == TEXTS[0]


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_another_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def with_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def with_a_tokenizer_of_another_model(folder: Path) -> None:
    tiny_whisper(folder / "other", ["a text of its own"])
    (folder / "other/tokenizer.json").rename(folder / "tokenizer.json")


def without_a_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_config, "it has no config.json"),
        (of_another_type, "type 'bert', not whisper"),
        (with_pickled_weights, "safetensors"),
        (without_a_tokenizer, "has no tokenizer: copy tokenizer.json"),
        (with_a_tokenizer_of_another_model, "the tokenizer in .* is not the model's"),
        (without_a_generation_config, "outdated generation_config.json, or none"),
    ],
)
def test_a_folder_that_is_no_whisper_is_refused_with_its_reason(
    base: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(base, folder)
    spoil(folder)

    with pytest.raises(UserError, match=reason):
        WhisperRecogniser.load(folder)


# Adapters


@pytest.fixture(scope="module", params=["lora", "adalora"])
def adapted(request: pytest.FixtureRequest, base: Path) -> WhisperRecogniser:
    """One whose adapter was trained for some steps."""
    torch.manual_seed(0)
    recogniser = WhisperRecogniser.load(base)
    recogniser.add_adapter(**(ADALORA if request.param == "adalora" else {"kind": "lora", "rank": 4}))
    train(recogniser, steps=8)
    return recogniser


@pytest.mark.parametrize("settings", [{"kind": "lora"}, ADALORA], ids=["lora", "adalora"])
def test_a_new_adapter_changes_nothing_and_learns_alone(
    recogniser: WhisperRecogniser, settings: dict[str, Any]
) -> None:
    before = logits(recogniser.model)

    recogniser.add_adapter(**settings)

    torch.testing.assert_close(logits(recogniser.model), before)
    learning = [name for name, parameter in recogniser.module.named_parameters() if parameter.requires_grad]
    assert learning
    assert all(".lora_" in name for name in learning)


def test_a_saved_adapter_is_small_and_gives_what_was_trained(
    adapted: WhisperRecogniser, base: Path, tmp_path: Path, no_network: None
) -> None:
    folder = tmp_path / "cardiology-v1.0"

    adapted.save_adapter(folder)

    names = ("adapter_config.json", "adapter_model.safetensors", "generation_config.json")
    assert sorted(file.name for file in folder.iterdir()) == sorted(names)
    assert (folder / names[1]).stat().st_size < (base / "model.safetensors").stat().st_size / 5
    loaded = WhisperRecogniser.load(folder)
    assert loaded.adapter == "cardiology-v1.0"
    torch.testing.assert_close(logits(loaded.model), logits(adapted.model), atol=1e-5, rtol=1e-5)


def test_a_merged_model_answers_as_its_adapter_did(adapted: WhisperRecogniser, tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    before = logits(adapted.model)

    adapted.save(tmp_path / "merged")

    merged = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), before, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(adapted.merge().model), before, atol=1e-5, rtol=0)
    assert torch.equal(logits(adapted.model), before)
    assert not [name for name in merged.state_dict() if "lora" in name]


def test_adapters_of_both_kinds_are_switched_over_one_base(base: Path, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {"q": {"kind": "lora", "rank": 2}, "decoder": ADALORA}
    wanted = {None: logits(WhisperRecogniser.load(base).model)}
    for name, values in settings.items():
        torch.manual_seed(len(name))
        trained = WhisperRecogniser.load(base)
        trained.add_adapter(**values)
        train(trained, steps=8)
        trained.save_adapter(tmp_path / name)
        wanted[name] = logits(trained.model)

    served = WhisperRecogniser.load(base)
    for name in settings:
        served.load_adapter(name, tmp_path / name)
        assert served.adapter is None
        torch.testing.assert_close(logits(served.model), wanted[None])

    for name in ("decoder", None, "q", "decoder"):
        served.use_adapter(name)
        torch.testing.assert_close(logits(served.model), wanted[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(served.merge().model), wanted[name], atol=1e-5, rtol=1e-5)
    assert (wanted["q"] - wanted["decoder"]).abs().max() > 0.1
    assert not any(parameter.requires_grad for parameter in served.module.parameters())
    with pytest.raises(UserError, match="no adapter 'x'; known: q, decoder"):
        served.use_adapter("x")
    with pytest.raises(UserError, match="there is an adapter 'q' already"):
        served.load_adapter("q", tmp_path / "q")


def test_an_adapter_changes_what_is_heard(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = WhisperRecogniser.load(base)
    plain = trained.transcribe([tone(300)])[0].text
    trained.add_adapter("lora", rank=16, alpha=64)
    train(trained, steps=30, learning_rate=2e-2)
    trained.save_adapter(tmp_path / "adapter")

    served = WhisperRecogniser.load(tmp_path / "adapter")

    adapted = served.transcribe([tone(300)])[0].text
    assert adapted == trained.transcribe([tone(300)])[0].text != plain
    served.use_adapter(None)
    assert served.transcribe([tone(300)])[0].text == plain


def test_the_language_of_an_adapter_goes_with_it(base: Path, tmp_path: Path) -> None:
    recogniser = WhisperRecogniser.load(base, language="zh")
    recogniser.add_adapter("lora", rank=2)
    recogniser.save_adapter(tmp_path / "adapter")

    served = WhisperRecogniser.load(tmp_path / "adapter")

    assert served.language == "zh"
    served.use_adapter(None)
    assert served.language == "en"


def test_an_adalora_that_peft_saved_is_read(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recogniser = WhisperRecogniser.load(base)
    recogniser.add_adapter(**ADALORA)
    train(recogniser, steps=8)
    peft_name = recogniser._peft_names["trained"]
    recogniser._peft.peft_config[peft_name].base_model_name_or_path = str(base)

    recogniser._peft.save_pretrained(tmp_path, save_embedding_layers=False)

    assert json.loads((tmp_path / peft_name / "adapter_config.json").read_text())["peft_type"] == "ADALORA"
    loaded = WhisperRecogniser.load(tmp_path / peft_name)
    torch.testing.assert_close(logits(loaded.model), logits(recogniser.model), atol=1e-5, rtol=1e-5)


def saved_ranks(recogniser: WhisperRecogniser, folder: Path) -> dict[str, int]:
    recogniser.save_adapter(folder)
    ranks: dict[str, int] = json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]
    return ranks


def test_adalora_ends_at_its_target_rank_and_gives_more_to_some(recogniser: WhisperRecogniser, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recogniser.add_adapter(**ADALORA)
    matrices = 2 * 6 + 2 * 10

    train(recogniser, steps=1)
    assert sum(saved_ranks(recogniser, tmp_path / "first").values()) == 6 * matrices
    train(recogniser, steps=8, first=2)

    ranks = saved_ranks(recogniser, tmp_path / "last")
    assert sum(ranks.values()) <= 2 * matrices
    assert len(set(ranks.values())) > 1


def test_adalora_still_prunes_when_its_last_pruning_step_is_skipped(
    recogniser: WhisperRecogniser, tmp_path: Path
) -> None:
    recogniser.add_adapter(**ADALORA)
    optimizer = make_optimizer(recogniser)

    train(recogniser, steps=5, optimizer=optimizer)
    train(recogniser, steps=8, first=7, optimizer=optimizer)

    assert sum(saved_ranks(recogniser, tmp_path / "adapter").values()) <= 2 * 32


@pytest.mark.parametrize("saved_at", [3, 7])
def test_adalora_resumed_from_a_checkpoint_goes_on_as_if_undisturbed(base: Path, tmp_path: Path, saved_at: int) -> None:
    def begin() -> tuple[WhisperRecogniser, torch.optim.Optimizer]:
        torch.manual_seed(5)
        recogniser = WhisperRecogniser.load(base)
        recogniser.add_adapter(**ADALORA)
        return recogniser, make_optimizer(recogniser)

    undisturbed, optimizer = begin()
    train(undisturbed, saved_at, optimizer=optimizer)
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save(
        {
            "module": undisturbed.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "extra": undisturbed.extra_state(),
        },
        checkpoint,
    )
    losses = train(undisturbed, 8, first=saved_at + 1, optimizer=optimizer)

    resumed, optimizer = begin()
    state = torch.load(checkpoint, weights_only=True)
    resumed.module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    resumed.load_extra_state(state["extra"])

    assert train(resumed, 8, first=saved_at + 1, optimizer=optimizer) == losses
    assert saved_ranks(resumed, tmp_path / "resumed") == saved_ranks(undisturbed, tmp_path / "undisturbed")


def test_a_checkpoint_of_other_adapters_is_refused(base: Path) -> None:
    wide, narrow, higher, lora = (WhisperRecogniser.load(base) for _ in range(4))
    wide.add_adapter(**ADALORA)
    narrow.add_adapter(**ADALORA, target_modules=["q_proj"])
    higher.add_adapter(**ADALORA | {"rank": 8})
    lora.add_adapter("lora")
    train(wide, steps=2)

    for other, shape in ((narrow, "not at all"), (higher, r"\[8"), (lora, "not at all")):
        with pytest.raises(UserError, match=rf"in shape \[6.*, this training {shape}.*: resume it with the settings"):
            other.load_extra_state(wide.extra_state())
    assert lora.extra_state() == {}
    lora.load_extra_state({})


def test_the_loss_of_adalora_keeps_its_factors_orthogonal(base: Path) -> None:
    def loss(weight: float) -> float:
        torch.manual_seed(0)
        recogniser = WhisperRecogniser.load(base)
        recogniser.add_adapter(**ADALORA, orthogonal_weight=weight)
        return float(recogniser.module.eval()(*two_tones(recogniser)))

    assert loss(0.5) > loss(0.1) > loss(0.0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kind": "lora", "target_modules": ["q_proj", "proj_out"]}, "choose from fc1, fc2, k_proj, out_proj, q_proj"),
        ({"kind": "lora", "target_modules": []}, "choose from fc1"),
        (ADALORA | {"target_rank": 6}, "target_rank 6 must be at least 1 and below rank 6"),
        (ADALORA | {"total_steps": 0}, "no step to prune in: of total_steps 0"),
        (ADALORA | {"warmup_share": 0.8}, "the warm-up takes 6 and the last phase 2"),
    ],
)
def test_settings_that_no_adapter_can_follow_are_refused(
    recogniser: WhisperRecogniser, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        recogniser.add_adapter(**settings)


def test_an_adapter_over_an_adapter_is_refused(recogniser: WhisperRecogniser, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter in use"):
        recogniser.save_adapter(tmp_path)
    recogniser.add_adapter("lora", rank=2)
    recogniser.save_adapter(tmp_path / "adapter")

    with pytest.raises(UserError, match="has the adapter trained already"):
        recogniser.add_adapter("lora")
    with pytest.raises(UserError, match="an adapter is being trained"):
        recogniser.load_adapter("other", tmp_path / "adapter")


def test_a_folder_that_is_no_adapter_of_the_base_is_refused_with_its_reason(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    recogniser = WhisperRecogniser.load(base)
    recogniser.add_adapter("lora", rank=2)
    folder = tmp_path / "adapter"
    recogniser.save_adapter(folder)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    settings = json.loads(config.read_text())

    def refused(reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            WhisperRecogniser.load(folder)

    save_file({name: tensor.repeat(2, 2) for name, tensor in load_file(weights).items()}, weights)
    refused("is no adapter of .*: its model.decoder.* is 128 wide, that of the base 64")
    config.write_text(json.dumps(settings | {"peft_type": "IA3"}))
    refused("of kind IA3; known: LORA, ADALORA")
    weights.rename(folder / "adapter_model.bin")
    refused("it has no adapter_model.safetensors")
    config.write_text(json.dumps(settings | {"base_model_name_or_path": "/nowhere/at/all"}))
    refused("/nowhere/at/all, which is no folder here: set base_model_name_or_path")
    config.write_text(json.dumps(settings | {"base_model_name_or_path": "acme/unknown"}))
    refused("acme/unknown .* cannot be fetched")


def test_an_adapter_of_a_model_of_the_hub_names_it_and_finds_it_in_the_cache(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub/models--acme--tiny/snapshots" / commit
    shutil.copytree(base, cached)
    recogniser = WhisperRecogniser.load(cached)
    recogniser.add_adapter("lora", rank=2)
    recogniser.save_adapter(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    loaded = WhisperRecogniser.load(tmp_path / "adapter")

    assert (settings["base_model_name_or_path"], settings["revision"]) == ("acme/tiny", commit)
    assert (loaded.base, loaded.base_revision) == ("acme/tiny", commit)
