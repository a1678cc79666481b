"""Our training loop against a bare PyTorch loop, and against NeMo's own Lightning trainer; audio seconds per second.

All train the same small model, in float32 with AdamW, on one CPU: one thread computes, another CPU is free for whatever
prepares the data. They take turns, each in a process of its own, so that a busy machine slows all. What is told of a
round is the second of two epochs: in the first, memory is touched for the first time, which a virtual machine is slow
at.

- `ours`: `rayapp train` with one worker, DeepSpeed, and its input by Ray's tasks;
- `bare`: forward, backward, clipping and step on the very batches of `ours`, which lie in memory;
- `nemo`: NeMo's trainer on an export of the manifest, its default loader with one worker, as many utterances in a batch
  as ours have on average;
- `nemo_bucketed`: the same with lhotse's dynamic bucketing, and as many seconds in a batch as ours have at most.

NeMo's TDT loss is a CUDA kernel: on the CPU it is given ours. `ratio` is the median over the rounds of ours over bare,
`ratio_nemo` and `ratio_nemo_bucketed` of ours over NeMo's. The utterances are the tones of `benchmarks.training_input`:
1 to 20 seconds, lognormally.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.training_input import write_manifest

_KINDS = ("ours", "bare", "nemo", "nemo_bucketed")


class Clock:
    """Seconds of audio in a second, over the second half of the steps."""

    def __init__(self, steps: int) -> None:
        self._left, self._started, self._samples = steps // 2, 0.0, 0

    def step_done(self, samples: int) -> None:
        self._left -= 1
        if self._left == 0:
            self._started = time.perf_counter()
        elif self._left < 0:
            self._samples += samples

    def rate(self) -> float:
        return self._samples / 16_000 / (time.perf_counter() - self._started)


def prepare(folder: Path, utterances: int, batch_seconds: float) -> dict[str, Any]:
    """The manifest, its export, the model to start from, and our batches; tells how many batches there are."""
    import numpy as np
    import ray
    import torch

    from pipelines.manifests.export import Source as Exported
    from pipelines.manifests.nemo import export_nemo
    from pipelines.training.mixture import Mixture, Source
    from pipelines.training.planning import PlanSettings, Position
    from pipelines.training.stream import BatchStream, Preparation
    from rayapp.asr.nemo import NemoRecogniser
    from rayapp.asr.recipes import recipe, train_tokenizer
    from rayapp.manifest import Manifest
    from rayapp.ray_session import ray_session

    texts = write_manifest(folder / "manifest", utterances)
    export_nemo(Exported(Manifest(folder / "manifest")), folder / "export")
    train_tokenizer(texts, folder / "tokenizer", vocabulary_size=128)
    torch.manual_seed(0)
    recogniser = NemoRecogniser.build(recipe("fastconformer_tdt_small")(folder / "tokenizer"))
    recogniser.save(folder / "start.nemo")
    with ray_session("local"):
        mixture = ray.put(Mixture.open([Source(folder / "manifest")]))
        preparation = Preparation(mixture, PlanSettings(batch_seconds), recogniser.tokeniser, max_seconds=30.0)
        with BatchStream(preparation, Position(), rank=0, ranks=1, epochs=1) as stream:
            batches = [tuple(streamed.batch) for streamed in stream]
            padding = stream.figures.summary()["padding_share"]
    torch.save(batches, folder / "batches.pt")
    sizes = [len(batch[0]) for batch in batches]
    return {
        "batches": len(batches),
        "utterances_per_batch": round(float(np.mean(sizes)), 1),
        "padding_share": round(padding, 3),
    }


def ours(folder: Path, settings: dict[str, Any]) -> float:
    from pipelines.training.config import TrainingConfig
    from pipelines.training.train import train
    from rayapp.ray_session import ray_session

    config = TrainingConfig.model_validate(
        {
            "output": tempfile.mkdtemp(dir=folder) + "/model",
            "sources": [{"manifest": str(folder / "manifest")}],
            "model": {"start": str(folder / "start.nemo")},
            "input": {"batch_seconds": settings["batch_seconds"]},
            "epochs": 2,
            "workers": 1,
            "learning_rate": 1e-4,
            "label_noise": 0,
            "validation_interval": 1,
        }
    )
    with ray_session("local"):
        train(config, folder / "tracking")
    history = json.loads((config.output / "metrics.json").read_text())["history"]
    *_, last = (entry["audio_seconds_per_second"] for entry in history if "audio_seconds_per_second" in entry)
    return float(last)


def bare(folder: Path, settings: dict[str, Any]) -> float:
    import torch

    from rayapp.asr.nemo import NemoRecogniser

    module = NemoRecogniser.load(folder / "start.nemo").module.train()
    batches = torch.load(folder / "batches.pt", weights_only=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    clock = Clock(2 * len(batches))
    for batch in batches * 2:
        module(*batch).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.step_done(int(batch[1].sum()))
    return clock.rate()


def nemo(folder: Path, settings: dict[str, Any]) -> float:
    return _with_lightning(
        folder, settings, {"batch_size": round(settings["utterances_per_batch"]), "shuffle": True, "max_duration": 30}
    )


def nemo_bucketed(folder: Path, settings: dict[str, Any]) -> float:
    lhotse = {
        "use_lhotse": True,
        "use_bucketing": True,
        "num_buckets": 30,
        "bucket_buffer_size": 10_000,
        "shuffle_buffer_size": 10_000,
        "batch_size": None,
        "batch_duration": settings["batch_seconds"],
        "shuffle": True,
        "max_duration": 30,
    }
    return _with_lightning(folder, settings, lhotse)


def _with_lightning(folder: Path, settings: dict[str, Any], loader: dict[str, Any]) -> float:
    from rayapp.asr.nemo import quiet_nemo

    with quiet_nemo():
        from lightning.pytorch import Callback, Trainer
        from nemo.collections.asr.models import ASRModel
        from omegaconf import OmegaConf

    from rayapp.asr.heads import make_head

    class Timed(Callback):
        def __init__(self) -> None:
            self.clock = Clock(2 * settings["batches"])

        def on_train_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, _number: int) -> None:
            self.clock.step_done(int(batch[1].sum()))

    timed = Timed()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2 * settings["batches"],
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[timed],
    )
    with quiet_nemo():
        model = ASRModel.restore_from(str(folder / "start.nemo"), map_location="cpu", trainer=trainer)
        make_head(model)  # puts our loss into the model
        manifest = {"manifest_filepath": str(folder / "export" / "train.json"), "sample_rate": 16_000, "num_workers": 1}
        model.setup_training_data(OmegaConf.create(manifest | loader))
        optimizer = {"name": "adamw", "lr": 1e-4, "betas": [0.9, 0.98], "weight_decay": 1e-3}
        model.setup_optimization(OmegaConf.create(optimizer))
        model.train()
        trainer.fit(model)
    return timed.clock.rate()


_RUNS: dict[str, Callable[[Path, dict[str, Any]], float]] = {
    "ours": ours,
    "bare": bare,
    "nemo": nemo,
    "nemo_bucketed": nemo_bucketed,
}


def in_a_process(kind: str, folder: Path, settings: dict[str, Any]) -> float:
    command = [sys.executable, "-m", "benchmarks.training_step", "--only", kind, "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SETTINGS": json.dumps(settings)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def compare(folder: Path, settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for number in range(rounds):
        for kind in _KINDS if number % 2 == 0 else reversed(_KINDS):
            rates[kind].append(in_a_process(kind, folder, settings))

    def ratio(other: str) -> float:
        return round(
            statistics.median(mine / their for mine, their in zip(rates["ours"], rates[other], strict=True)), 3
        )

    return {
        "ratio": ratio("bare"),
        "ratio_nemo": ratio("nemo"),
        "ratio_nemo_bucketed": ratio("nemo_bucketed"),
        "audio_seconds_per_second": {kind: [round(rate, 1) for rate in rates[kind]] for kind in _KINDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--utterances", type=int, default=768)
    parser.add_argument("--batch-seconds", type=float, default=40.0, help="padding included")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=_KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        rate = _RUNS[arguments.only](arguments.folder, json.loads(os.environ["SETTINGS"]))
        sys.stdout.write(f"\n{rate}\n")
        return
    with tempfile.TemporaryDirectory() as name:
        prepared = prepare(Path(name), arguments.utterances, arguments.batch_seconds)
        settings = prepared | {"batch_seconds": arguments.batch_seconds}
        report = compare(Path(name), settings, arguments.rounds)
    report["conditions"] = settings | {"cores": os.cpu_count(), "rounds": arguments.rounds}
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
