"""Models built from scratch, of the same make as Parakeet TDT: small enough to learn on a CPU, or as large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rayapp.errors import UserError

TDT_DURATIONS = [0, 1, 2, 3, 4]


def train_tokenizer(texts: Iterable[str], folder: Path, vocabulary_size: int) -> None:
    """Fit a SentencePiece BPE model to the texts; writes the two files that NeMo reads from a folder."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=vocabulary_size,
        model_type="bpe",
        character_coverage=1.0,
        required_chars="0123456789.'",  # a later domain may bring codes that the first texts have not
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(pieces[1:]) + "\n", encoding="utf-8")


def fastconformer_tdt_small(tokenizer: Path) -> dict[str, Any]:
    """NeMo configuration of a 1.3-million-parameter FastConformer-TDT.

    The layers are Parakeet TDT's, fewer and narrower: 80 mel features, 8× subsampling by depthwise
    strided convolutions, FastConformer encoder, LSTM prediction network, joint with 5 durations.
    """
    width = 128
    return {
        "target": "nemo.collections.asr.models.EncDecRNNTBPEModel",
        "sample_rate": 16_000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "rnnt_reduction": "mean_volume",
        "skip_nan_grad": False,
        "model_defaults": {
            "enc_hidden": width,
            "pred_hidden": width,
            "joint_hidden": width // 2,  # the joint is evaluated for every frame and label
            "tdt_durations": TDT_DURATIONS,
            "num_tdt_durations": len(TDT_DURATIONS),
        },
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        # Without this section, NeMo's own `transcribe` fails.
        "validation_ds": {"manifest_filepath": None, "sample_rate": 16_000, "batch_size": 1, "shuffle": False},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1.0e-5,
            "pad_to": 0,
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 0,  # speech made here has its noise and rooms already
            "time_masks": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": 4,
            "d_model": width,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 32,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "xscaling": False,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
            "dropout_att": 0.0,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": width, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.1},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": False,  # the loss and the decoder normalise tokens and durations, each by themselves
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": 16,
            "jointnet": {"joint_hidden": width // 2, "activation": "relu", "dropout": 0.0},
            "num_extra_outputs": len(TDT_DURATIONS),
        },
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt",
            "durations": TDT_DURATIONS,
            "greedy": {"max_symbols": 10},
        },
        "loss": {"loss_name": "tdt", "tdt_kwargs": {"durations": TDT_DURATIONS, "sigma": 0.02, "omega": 0.0}},
        "optim": {"name": "adamw", "lr": 1e-3},  # NeMo wants the key; the training step has its own settings
    }


def parakeet_tdt_06b(tokenizer: Path) -> dict[str, Any]:
    """NeMo configuration of a model as large as Parakeet TDT 0.6B, for 1024 tokens 618 million parameters.

    Of the same make, but wider and deeper, on 128 mel features; regularised as for thousands of hours of speech.
    """
    from omegaconf import OmegaConf

    width, narrow = 1024, 640
    larger = {
        "model_defaults": {"enc_hidden": width, "pred_hidden": narrow, "joint_hidden": narrow},
        "preprocessor": {"features": 128},
        "spec_augment": {"freq_masks": 2, "time_masks": 10, "freq_width": 27, "time_width": 0.05},
        "encoder": {
            "feat_in": 128,
            "n_layers": 24,
            "d_model": width,
            "use_bias": False,
            "subsampling_conv_channels": 256,
            "ff_expansion_factor": 4,
            "n_heads": 8,
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_att": 0.1,
        },
        "decoder": {"prednet": {"pred_hidden": narrow, "pred_rnn_layers": 2, "dropout": 0.2}},
        "joint": {
            "fuse_loss_wer": True,
            "fused_batch_size": 4,
            "jointnet": {"joint_hidden": narrow, "dropout": 0.2},
        },
        "loss": {"tdt_kwargs": {"omega": 0.1}},
    }
    merged = OmegaConf.to_container(OmegaConf.merge(fastconformer_tdt_small(tokenizer), larger))
    assert isinstance(merged, dict)
    return merged


RECIPES: Mapping[str, Any] = {
    "fastconformer_tdt_small": fastconformer_tdt_small,
    "parakeet_tdt_06b": parakeet_tdt_06b,
}


def recipe(name: str) -> Any:
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}; known: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
