"""A Whisper of the smallest kind, with random weights: to try a training on a CPU, with nothing to download."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from rayapp.asr.whisper import START, quiet_transformers


def tiny_whisper(folder: Path, texts: Iterable[str], seconds: int = 30) -> None:
    """Write a Whisper with random weights that is small enough to learn on a CPU, and its tokenizer, fitted to texts.

    Two layers of width 64 on each side, 0.4 million parameters; the languages, special tokens and times of the large
    ones.

    seconds: what it hears at once. All audio is padded to that, so that a shorter window is learnt from faster.
    """
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    tokenizer, special = _fit_tokenizer(texts)
    start, end = special[START], special["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=50 * seconds,
        max_target_positions=96,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        begin_suppress_tokens=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=config.max_target_positions,
        is_multilingual=True,
        language="<|en|>",
        task="transcribe",
        lang_to_id={token: number for token, number in special.items() if start < number < special["<|translate|>"]},
        task_to_id={task: special[f"<|{task}|>"] for task in ("translate", "transcribe")},
        no_timestamps_token_id=special["<|notimestamps|>"],
        alignment_heads=[[1, 0], [1, 1]],
    )
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        WhisperFeatureExtractor(chunk_length=seconds).save_pretrained(folder)


def _fit_tokenizer(texts: Iterable[str]) -> tuple[Any, dict[str, int]]:
    """A `WhisperTokenizer`, and the numbers of its special tokens."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    fitted = tokenizers.Tokenizer(models.BPE())
    fitted.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fitted.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    )
    bpe = json.loads(fitted.to_str())["model"]
    special = [
        START,
        *(f"<|{code}|>" for code in LANGUAGES),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    ]
    tokenizer = WhisperTokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        pad_token="<|endoftext|>",
        extra_special_tokens=special,
    )
    tokenizer.add_tokens([f"<|{second * 0.02:.2f}|>" for second in range(1501)])
    names = ["<|endoftext|>", *special]
    return tokenizer, dict(zip(names, tokenizer.convert_tokens_to_ids(names), strict=True))
