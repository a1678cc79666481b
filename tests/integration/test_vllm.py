"""vLLM in the stream, with a language model and a LoRA adapter that the test makes itself."""

import dataclasses
import itertools
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.config import SynthesisConfig
from pipelines.estimate import estimate, rates_of_run
from pipelines.here import through_operators
from pipelines.lexicon.config import LexiconConfig
from pipelines.lexicon.terms import open_lexicon
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.plan import Planner
from pipelines.synthesize import prepared, synthesize
from pipelines.transcripts.config import TranscriptsConfig, VllmConfig
from pipelines.transcripts.prompts import load_prompts
from pipelines.transcripts.splits import side_of_text
from pipelines.transcripts.vllm_engine import ChooseTranscript, VllmGenerator, hand_over, request
from rayapp.errors import UserError
from rayapp.execution import DatasetGroup
from rayapp.manifest import Manifest, read_rejections
from rayapp.records import Utterance
from rayapp.workers import BUSY_SECONDS, pack, unpack

STYLES = {name: load_prompts(name) for name in ("dictation_en", "consultation_en")}
TOO_LONG = "qzxjvkwq" * 12
"""A term that no prompt of the engine has room for."""
CANDIDATES = 2
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RANK = 8
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of ten slots; one of them has a term that is too long."""
    home = tmp_path_factory.mktemp("language_model")
    rows = [*((term, 1) for term in ("losartan", "metformin", "apixaban")), (TOO_LONG, 0.4)]
    lines = ["text,category,weight", *(f"{term},drug,{weight}" for term, weight in rows)]
    (home / "lexicon.csv").write_text("\n".join(lines))
    sizes = SizesConfig.model_validate(dict.fromkeys(SizesConfig.model_fields, 0) | {"train_per_term": 3})
    return SynthesisConfig(
        output=str(home / "speech"),
        lexicon=LexiconConfig(path=str(home / "lexicon.csv")),
        transcripts=TranscriptsConfig(
            generator="vllm",
            styles={"dictation_en": 2, "consultation_en": 1},
            vllm=VllmConfig(
                model=str(home / "model"),
                lora=str(home / "adapter"),
                chat_template=str(home / "template.jinja"),
                temperature=0.1,
                max_tokens=100,
                candidates=CANDIDATES,
                gpus=0,
                engine={"max_model_len": 280, "dtype": "float32", "enforce_eager": True},
            ),
            rounds=1,  # it has learnt the answers to one plan
        ),
        manifests=ManifestsConfig(sizes=sizes, max_rejected_share=0.5),
    )


@pytest.fixture(scope="module")
def slots(config):
    """Those of the plan that the engine has room for."""
    slots = list(Planner(config, open_lexicon(config.lexicon)).first())
    return [slot for slot in slots if TOO_LONG not in [term.text for term in (slot.term, *slot.companions)]]


def answer_for(slot, suits):
    """An answer that the slot has a use for, or one whose sentences are on other sides of the split."""
    return answer_of(slot, list(itertools.islice(sentences_for(slot, suits), CANDIDATES)))


def sentences_for(slot, suits):
    terms = " and ".join(term.text for term in (slot.term, *slot.companions))
    for time, verb in itertools.product(("today", "at night", "on Monday", "again"), ("Start", "Stop", "Keep", "Try")):
        text = f"{verb} {terms} {time}."
        said = f"{text} Yes." if slot.style == "consultation_en" else text
        if (side_of_text(said) == "train") == suits:
            yield text


def answer_of(slot, texts):
    if slot.style == "dictation_en":
        return json.dumps({"sentences": texts})
    turns = [[("clinician", text), ("patient", "Yes.")] for text in texts]
    return json.dumps({"dialogues": [[{"role": role, "text": text} for role, text in turn] for turn in turns]})


@pytest.fixture(scope="module")
def language_model(config, slots):
    """A 2-layer Llama that has learnt unsuitable answers by heart, and an adapter that has learnt suitable ones."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings = config.transcripts.vllm
    home = Path(settings.model)
    chats = [STYLES[slot.style].messages(slot, CANDIDATES) for slot in slots]
    suiting, others = ([answer_for(slot, suits) for slot in slots] for suits in (True, False))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained_tokenizer([m["content"] for chat in chats for m in chat] + suiting + others),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    tokenizer.save_pretrained(home)  # without a chat template: the settings bring it
    Path(settings.chat_template).write_text(CHAT_TEMPLATE)

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # vLLM on CPU wants heads of 32 or more
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(shape)
    prompts = [
        tokenizer.apply_chat_template(
            chat, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False, bos_token=""
        )
        for chat in chats
    ]
    overfit(model, tokenizer, prompts, others)
    model.save_pretrained(home)
    adapt(model, tokenizer, prompts, suiting, Path(settings.lora))


def trained_tokenizer(texts):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return tokenizer


def overfit(model, tokenizer, prompts, answers, most_steps=800):
    """Learn the answers by heart; what does not want a gradient stays as it is."""
    import torch

    batch = tokenizer(
        [prompt + answer + "<eos>" for prompt, answer in zip(prompts, answers, strict=True)],
        padding=True,
        return_tensors="pt",
    )
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, prompt in zip(labels, prompts, strict=True):
        row[: len(tokenizer(prompt)["input_ids"])] = -100
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(most_steps):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            return
    raise AssertionError(f"the language model has not learnt its answers: loss {loss.item():.3f}")


def adapt(model, tokenizer, prompts, answers, folder):
    """Train a LoRA adapter and save it as PEFT lays it out."""
    import torch
    from safetensors.torch import save_file
    from torch.nn.utils import parametrize

    class LowRank(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.a = torch.nn.Parameter(torch.randn(RANK, weight.shape[1]) / RANK)
            self.b = torch.nn.Parameter(torch.zeros(weight.shape[0], RANK))

        def forward(self, weight):
            return weight + self.b @ self.a

    model.requires_grad_(False)
    tensors = {}
    for name, module in list(model.named_modules()):
        if name.endswith(PROJECTIONS):
            low_rank = LowRank(module.weight)
            parametrize.register_parametrization(module, "weight", low_rank)
            tensors[f"base_model.model.{name}.lora_A.weight"] = low_rank.a
            tensors[f"base_model.model.{name}.lora_B.weight"] = low_rank.b
    overfit(model, tokenizer, prompts, answers)
    folder.mkdir()
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": PROJECTIONS,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@pytest.mark.slow
def test_vllm_writes_a_run_with_an_adapter_to_its_manifest_and_a_failure_costs_its_row_alone(
    ray, config, slots, language_model
):
    result = synthesize(config)
    manifest = Manifest(config.output)
    rows = manifest.read("train").to_pylist()
    assert result.slots > len(slots)
    assert len(rows) == result.kept >= result.slots / 2, result.rejections
    suiting = {slot.slot_id: list(sentences_for(slot, suits=True)) for slot in slots}
    for row in rows:
        assert row["text"].removesuffix(" Yes.") in suiting[row["slot_id"]]
        assert row["generator"] == f"vllm:{row['style']}"
        assert row["audio"]["bytes"]
    assert {row["style"] for row in rows} == set(STYLES)
    assert [reason for reason in read_rejections(manifest) if "the engine gave no answer: " in reason]
    assert not estimate(config, prepared(config)[1], rates_of_run(config.output)).not_measured
    assert synthesize(config) is None


@pytest.fixture
def answered(slots):
    """Rows as they come from an engine, of which one belongs to a style that the run does not have."""
    lost = dataclasses.replace(slots[0], slot_id="lost", style="telegrams_en")
    utterances = [Utterance(slot) for slot in (*slots, lost)]
    texts = [*(answer_for(slot, suits=True) for slot in slots), "Losartan stop."]
    columns = {"generated_text": texts, "__inference_error__": [""] * len(texts), BUSY_SECONDS: [0.5] * len(texts)}
    return pa.table({"utterance": pack(utterances)["utterance"], **columns})


def test_an_unexpected_exception_costs_its_row_alone_and_is_logged_without_what_was_written(config, answered, caplog):
    choose = partial(ChooseTranscript, config=config.transcripts, styles=STYLES, held_out=[])
    table = hand_over(answered, choose)
    *others, lost = unpack(table)
    assert all(utterance.transcript for utterance in others)
    assert (lost.status, lost.reason) == ("rejected", "transcript: KeyError")
    assert "slot lost: KeyError" in caplog.text
    assert "Losartan stop" not in caplog.text
    assert sum(table[BUSY_SECONDS].to_pylist()) == 0.5 * (len(others) + 1)


def test_a_slot_that_cannot_be_asked_for_skips_the_engine_and_is_rejected(config, slots, caplog):
    lost = dataclasses.replace(slots[0], slot_id="lost", prompt="no such scenario")
    (row,) = pack([Utterance(lost)]).to_pylist()
    asked = request(row, config.transcripts.vllm, STYLES)
    assert asked == {"__inference_error__": "KeyError"}
    assert "slot lost: KeyError" in caplog.text
    choose = partial(ChooseTranscript, config=config.transcripts, styles=STYLES, held_out=[])
    (utterance,) = unpack(hand_over(pa.Table.from_pylist([row | asked]), choose))
    assert utterance.reason == "transcript: the engine gave no answer: KeyError"


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "told"), [({BUSY_SECONDS: [0.25] * 8}, 2.0), ({}, None)])
def test_operators_tell_how_long_they_were_busy_or_do_not(ray, slots, columns, told):
    def busy(table):
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values))
        return table

    group = DatasetGroup("busy", lambda dataset: dataset.map_batches(busy, batch_size=None, batch_format="pyarrow"))
    utterances, seconds = through_operators(group, [Utterance(slot) for slot in slots])
    assert [utterance.slot for utterance in utterances] == slots
    assert seconds == told


def generator(**settings):
    return VllmGenerator(TranscriptsConfig(generator="vllm", vllm=VllmConfig(**settings)), [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus": 1, "engine": {"tensor_parallel_size": 4}}, "set gpus to 4"),
        ({"gpus": 0.5, "engine": {"tensor_parallel_size": 2}}, "set gpus to 2"),
        ({"model": "/no/such/model"}, r"vllm\.model: /no/such/model is not there; give the folder"),
        ({"lora": "/no/such/adapter"}, r"vllm\.lora: /no/such/adapter.*cannot be read"),
        ({"chat_template": "/no/such.jinja"}, r"vllm\.chat_template: /no/such.jinja cannot be read"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(settings, message):
    with pytest.raises(UserError, match=message):
        generator(**settings).check()


def test_a_group_asks_for_the_gpus_of_its_engines():
    (group,) = generator(gpus=4, workers=2, engine={"tensor_parallel_size": 4}).steps()
    assert (group.workers, group.resources.gpus) == (2, 4)
