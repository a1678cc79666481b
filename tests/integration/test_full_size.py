"""A model as large as Parakeet TDT 0.6B, with random weights, on the CPU. `-s` shows what it took."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]

MINUTES = 24
MINUTES_WITHOUT_BFLOAT16 = 6  # a CPU without AVX-512 takes some half an hour for 24 in bfloat16, and in float32 12 GB


def measured(what: str, folder: Path) -> dict[str, float]:
    """What a function of this file tells when it runs by itself, with its time and its peak of memory."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, what, folder], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{what}: {figures | {'seconds': round(time.perf_counter() - started)}}\n")
    return figures


def test_a_step_is_trained_and_the_model_saved_and_restored(tmp_path):
    figures = measured("train_a_step", tmp_path)
    assert figures["parameters"] == pytest.approx(618e6, rel=0.01)
    assert figures["loss_after"] < figures["loss_before"]
    assert figures["gigabytes_on_disk"] == pytest.approx(2.47, abs=0.05)
    assert figures["is_same_after_loading"]
    assert figures["peak_gigabytes"] < 12


def test_a_long_consultation_goes_through_the_encoder_in_one_pass(tmp_path):
    figures = measured("encode_long_audio", tmp_path)
    assert figures["frames"] == pytest.approx(figures["minutes"] * 60 / 0.08, abs=1)
    assert figures["is_finite"]
    assert figures["peak_gigabytes"] < 12


def build(folder: Path):
    import torch
    from wordfreq import top_n_list

    from rayapp.asr.nemo import NemoRecogniser
    from rayapp.asr.recipes import parakeet_tdt_06b, train_tokenizer

    train_tokenizer(top_n_list("en", 8000), folder / "tokenizer", 1024)
    torch.manual_seed(0)
    return NemoRecogniser.build(parakeet_tdt_06b(folder / "tokenizer"))


def train_a_step(folder: Path) -> dict[str, float]:
    import torch

    from rayapp.asr.nemo import NemoRecogniser
    from rayapp.asr.recogniser import SpeechBatch

    recogniser = build(folder)
    audio = torch.randn(1, 32000) * 0.1
    tokens = torch.tensor([recogniser.tokeniser.encode("please start losartan today")])
    lengths = torch.tensor([audio.shape[1]]), torch.tensor([tokens.shape[1]])
    batch = SpeechBatch(audio, lengths[0], tokens, lengths[1], torch.empty(1, 0, dtype=torch.int64))
    before = training_loss(recogniser, batch)
    before.backward()
    torch.nn.utils.clip_grad_norm_(recogniser.module.parameters(), 1.0)
    torch.optim.SGD(recogniser.module.parameters(), lr=0.01).step()  # AdamW's state would be as large again, twice
    recogniser.module.zero_grad()
    with torch.no_grad():
        after = training_loss(recogniser, batch)

    path = folder / "model.nemo"
    recogniser.save(path)
    size = path.stat().st_size
    loaded = NemoRecogniser.load(path)
    path.unlink()
    heard, again = (each.transcribe([audio[0].numpy()], times=True) for each in (recogniser, loaded))
    return {
        "parameters": sum(parameter.numel() for parameter in recogniser.module.parameters()),
        "loss_before": before.item(),
        "loss_after": after.item(),
        "gigabytes_on_disk": size / 1e9,
        "is_same_after_loading": heard == again,
    }


def training_loss(recogniser, batch):
    """With the same dropout and masks each time."""
    import torch

    torch.manual_seed(1)
    return recogniser.module.train()(*batch)


def encode_long_audio(folder: Path) -> dict[str, float]:
    import torch

    from rayapp.asr.nemo import encode

    recogniser = build(folder)
    recogniser.long_audio()
    recogniser.model.eval()
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    minutes = MINUTES if has_bfloat16 else MINUTES_WITHOUT_BFLOAT16
    audio = torch.randn(1, minutes * 60 * 16000) * 0.1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16):
        encoded, lengths = encode(recogniser.model, audio, torch.tensor([audio.shape[1]]))
    return {"minutes": minutes, "frames": int(lengths[0]), "is_finite": bool(encoded.isfinite().all())}


if __name__ == "__main__":
    told = {"train_a_step": train_a_step, "encode_long_audio": encode_long_audio}[sys.argv[1]](Path(sys.argv[2]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sys.stdout.write(json.dumps(told | {"peak_gigabytes": round(peak, 2)}) + "\n")
