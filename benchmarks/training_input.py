"""Does the training input keep up, and does it waste little? Two ranks learn an epoch of a manifest of tones.

The tones last 1 to 20 seconds, lognormally, and lie in noise, so that their FLAC is as large as speech's. A step is the
real forward and backward pass of the small recipe, one thread a rank; the ranks meet after each, as in training, and
take all CPUs of a machine that has two. `wait_share` is the share of the time that the rank that waited longer waited
for batches, from when both have their model. `padding_share` and `rank_imbalance` (by how much the padded seconds of
the larger batch of a step exceed the mean, as a share) are means over the epoch; `padding_share_random` is what batches
of the same numbers of utterances, drawn by chance, would have. `stream_speed` is how many seconds of audio one stream
gives in a second to somebody who only takes them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.training.mixture import Mixture, Source
from pipelines.training.planning import PlanSettings, Position
from pipelines.training.stream import BatchStream, InputFigures, Preparation
from rayapp.asr.recipes import recipe, train_tokenizer
from rayapp.asr.tokeniser import PieceTokeniser
from rayapp.audio.codec import encode_flac
from rayapp.ray_session import ray_session
from rayapp.records import MANIFEST_SCHEMA, SAMPLE_RATE_HZ
from rayapp.storage import published_folder

_RANKS = 2
_ROWS_PER_GROUP = 64
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in ("a", "e", "in", "o", "us")]


def write_manifest(folder: Path, utterances: int) -> list[str]:
    """Returns the texts."""
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal(30 * SAMPLE_RATE_HZ)
    seconds = np.clip(rng.lognormal(1.6, 0.6, utterances), 1.0, 20.0)
    texts = [" ".join("".join(rng.choice(_SYLLABLES, 2)) for _ in range(max(1, int(2 * s)))) for s in seconds]
    with published_folder(folder, "tones") as staging:
        (staging / "data").mkdir()
        with pq.ParquetWriter(staging / "data" / "train-00000-of-00001.parquet", MANIFEST_SCHEMA) as writer:
            for start in range(0, utterances, _ROWS_PER_GROUP):
                rows = [
                    _row(number, seconds[number], texts[number], noise[rng.integers(10 * SAMPLE_RATE_HZ) :])
                    for number in range(start, min(start + _ROWS_PER_GROUP, utterances))
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    return texts


def _row(number: int, seconds: float, text: str, noise: np.ndarray[Any, Any]) -> dict[str, Any]:
    samples = int(seconds * SAMPLE_RATE_HZ)
    audio = noise[:samples] + 0.2 * np.sin(np.arange(samples) * (0.05 + 0.1 * (number % 97) / 97))
    return {
        "utterance_id": f"tone{number}",
        "audio": {"bytes": encode_flac(audio), "path": None},
        "duration_seconds": samples / SAMPLE_RATE_HZ,
        "text": text,
        "split": "train",
        "status": "ok",
    }


def learn(config: dict[str, Any]) -> None:
    """An epoch, in a worker of a `TorchTrainer`; leaves the figures of its rank in a file."""
    import ray.train
    import torch
    import torch.distributed as dist

    from rayapp.asr.nemo import NemoRecogniser

    torch.set_num_threads(1)
    rank = ray.train.get_context().get_world_rank()
    with BatchStream(config["preparation"], Position(), rank, _RANKS, epochs=1) as stream:
        module = NemoRecogniser.build(recipe("fastconformer_tdt_small")(config["tokenizer"])).module
        dist.barrier()
        stream.figures = InputFigures()
        sizes = []
        for streamed in stream:
            loss = module(*streamed.batch)
            loss.backward()
            module.zero_grad()
            dist.all_reduce(loss.detach())
            sizes.append(len(streamed.batch.audio))
        told = stream.figures.summary() | {"steps": stream.figures.steps, "sizes": sizes}
        told |= {"seconds": time.perf_counter() - stream.figures.started}
    (config["folder"] / f"{rank}.json").write_text(json.dumps(told))


def run(preparation: Preparation, tokenizer: Path, folder: Path) -> list[dict[str, Any]]:
    """The figures of each rank."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        learn,
        train_loop_config={"preparation": preparation, "tokenizer": tokenizer, "folder": folder},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=_RANKS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(folder / "ray")),
    ).fit()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(_RANKS)]


def padding_of_random_batches(mixture: Mixture, sizes: list[int]) -> float:
    seconds = np.random.default_rng(0).permutation(mixture.seconds)
    batches = np.split(seconds, np.cumsum(sizes)[:-1])
    return 1 - float(seconds.sum() / sum(batch.max() * len(batch) for batch in batches))


def stream_speed(preparation: Preparation) -> float:
    """Seconds of audio that a rank is given in a second, from its first batch on."""
    with BatchStream(preparation, Position(), rank=0, ranks=_RANKS, epochs=1) as stream:
        taken = iter(stream)
        next(taken)
        stream.figures = InputFigures()
        for _ in taken:
            pass
        return stream.figures.samples / SAMPLE_RATE_HZ / (time.perf_counter() - stream.figures.started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--utterances", type=int, default=4096)
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="of each rank, padding included")
    parser.add_argument("--window", type=int, default=4096)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ray_session("local"):
        import ray

        folder = Path(name)
        texts = write_manifest(folder / "manifest", arguments.utterances)
        train_tokenizer(texts, folder / "tokenizer", vocabulary_size=128)
        mixture = Mixture.open([Source(folder / "manifest")])
        preparation = Preparation(
            ray.put(mixture),
            PlanSettings(arguments.batch_seconds, arguments.window),
            PieceTokeniser([(folder / "tokenizer" / "tokenizer.model").read_bytes()]),
            max_seconds=30.0,
        )
        speed = stream_speed(preparation)
        ranks = run(preparation, folder / "tokenizer", folder)
        sizes = [size for rank in ranks for size in rank["sizes"]]
        padding_share_random = padding_of_random_batches(mixture, sizes)
    report: dict[str, Any] = {
        "padding_share": round(float(np.mean([rank["padding_share"] for rank in ranks])), 4),
        "padding_share_random": round(padding_share_random, 4),
        "rank_imbalance": round(ranks[0]["rank_imbalance"], 4),
        "wait_share": round(max(rank["wait_share"] for rank in ranks), 4),
        "stream_speed": round(speed),
        "steps": ranks[0]["steps"],
        "seconds": round(ranks[0]["seconds"], 1),
        "utterances_per_batch": round(float(np.mean(sizes)), 1),
        "conditions": {name: value for name, value in vars(arguments).items() if name != "json"},
    }
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else "".join(f"{k}: {v}\n" for k, v in report.items()))


if __name__ == "__main__":
    main()
