"""vLLM in the stream, with a language model and a LoRA adapter that the test makes itself."""

import json

import pytest

from pipelines.transcripts.answers import parse_answer
from pipelines.transcripts.config import TranscriptsConfig, VllmConfig
from pipelines.transcripts.prompts import load_prompts
from pipelines.transcripts.vllm_engine import vllm_group
from pipelines.transcripts.write import chosen
from rayapp.errors import UserError
from rayapp.records import Term, Transcript, Utterance
from rayapp.workers import pack, unpack

STYLES = {name: load_prompts(name) for name in ("dictation_en", "consultation_en")}
TERMS = ("losartan", "metformin", "apixaban")
CANDIDATES = 2
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RANK = 8
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def slots(slot_factory):
    asked = [
        ("dictation_en", "start_treatment"),
        ("dictation_en", "change_of_dose"),
        ("consultation_en", "missed_doses"),
    ]
    return [
        slot_factory(slot_id=f"{term} {prompt}", style=style, prompt=prompt, term=Term(term, "drug"), seed=seed)
        for seed, (term, (style, prompt)) in enumerate((term, entry) for term in TERMS for entry in asked)
    ]


@pytest.fixture(scope="module")
def slot_factory():
    from rayapp.records import Slot, Voice

    voice = Voice("espeak", "en-us+m3", accent="en-us")
    return lambda **fields: Slot(split="train", cast=(voice,), snr_db=15.0, **fields)


def answer_for(slot, adapted):
    """What the model learns by heart; its adapter learns the same words the other way round."""
    term = slot.term.text
    order = slice(None, None, -1 if adapted else 1)
    if slot.style == "consultation_en":
        turns = [("clinician", f"Start {term}."), ("patient", "Yes.")][order]
        return json.dumps({"dialogues": [[{"role": role, "text": text} for role, text in turns]]})
    return json.dumps({"sentences": [f"Start {term} today.", f"Start {term} at night."][order]})


@pytest.fixture(scope="module")
def language_model(slots, tmp_path_factory):
    """Folder of a 2-layer Llama that has learnt its answers, and of its adapter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    home = tmp_path_factory.mktemp("language_model")
    chats = [STYLES[slot.style].messages(slot, CANDIDATES) for slot in slots]
    answers, adapted = ([answer_for(slot, adapted) for slot in slots] for adapted in (False, True))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained_tokenizer([m["content"] for chat in chats for m in chat] + answers),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    tokenizer.save_pretrained(home)  # without a chat template: the settings bring it
    (home / "template.jinja").write_text(CHAT_TEMPLATE)

    torch.manual_seed(0)
    config = LlamaConfig(
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
    model = LlamaForCausalLM(config)
    prompts = [
        tokenizer.apply_chat_template(
            chat, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False, bos_token=""
        )
        for chat in chats
    ]
    overfit(model, tokenizer, prompts, answers)
    model.save_pretrained(home)
    adapt(model, tokenizer, prompts, adapted, home / "adapter")
    return home


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
def test_vllm_writes_in_the_stream_with_an_adapter_and_a_failure_costs_its_row_alone(
    ray, slots, slot_factory, language_model
):
    import ray.data

    config = VllmConfig(
        model=str(language_model),
        lora=str(language_model / "adapter"),
        chat_template=str(language_model / "template.jinja"),
        temperature=0.1,
        max_tokens=100,
        candidates=CANDIDATES,
        gpus=0,
        engine={"max_model_len": 1024, "dtype": "float32", "enforce_eager": True},
    )
    too_long = slot_factory(
        slot_id="too long", style="dictation_en", prompt="start_treatment", term=Term("q" * 4000, "drug"), seed=99
    )

    def first(utterances, outcomes):
        return [
            u.rejected(str(outcome))
            if isinstance(outcome, Exception)
            else u.with_transcript(Transcript(outcome[0].written, "", (u.slot.term.text,), "en", "vllm"))
            for u, outcome in zip(utterances, outcomes, strict=True)
        ]

    blocks = [pack([Utterance(slot) for slot in [*slots, too_long]]), pack([])]
    written = vllm_group(config, STYLES, first).apply(ray.data.from_arrow(blocks))
    done = [u for table in written.iter_batches(batch_size=None, batch_format="pyarrow") for u in unpack(table)]

    assert sorted(u.slot.slot_id for u in done) == sorted(slot.slot_id for slot in [*slots, too_long])
    texts = {u.slot.slot_id: u.transcript.text for u in done if u.transcript}
    assert next(u for u in done if u.slot.slot_id == "too long").reason.startswith("the engine failed: ")
    right = [
        slot
        for slot in slots
        if texts.get(slot.slot_id) == parse_answer(answer_for(slot, True), STYLES[slot.style].roles)[0].written
    ]
    assert len(right) >= len(slots) / 2, texts
    assert {slot.style for slot in right} == set(STYLES)
    transcripts = TranscriptsConfig(generator="vllm", styles=dict.fromkeys(STYLES, 1.0))
    drafts = [parse_answer(answer_for(slot, True), STYLES[slot.style].roles) for slot in right]
    checked = [chosen(Utterance(slot), written, transcripts) for slot, written in zip(right, drafts, strict=True)]
    assert sum(isinstance(outcome, Utterance) for outcome in checked) >= len(slots) / 2, checked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus": 1, "engine": {"tensor_parallel_size": 4}}, "set gpus to 4"),
        ({"gpus": 0.5, "engine": {"tensor_parallel_size": 2}}, "set gpus to 2"),
        ({"lora": "/no/such/adapter"}, r"vllm\.lora: /no/such/adapter.*cannot be read"),
        ({"chat_template": "/no/such.jinja"}, r"vllm\.chat_template: /no/such.jinja cannot be read"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(settings, message):
    with pytest.raises(UserError, match=message):
        vllm_group(VllmConfig(**settings), STYLES, lambda utterances, outcomes: utterances)


def test_a_group_asks_for_the_gpus_of_its_engines():
    config = VllmConfig(gpus=4, workers=2, engine={"tensor_parallel_size": 4})
    group = vllm_group(config, STYLES, lambda utterances, outcomes: utterances)
    assert (group.workers, group.resources.gpus) == (2, 4)
