"""Our CPU TDT loss against transformers' pure PyTorch one: forward and backward on the same tensors.

`ratio` is the median of theirs over ours, round by round, in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

DURATIONS = [0, 1, 2, 3, 4]
SIGMA = 0.02


def measure(batch: int, frames: int, labels: int, vocabulary: int, rounds: int) -> dict[str, float]:
    from transformers.loss.loss_tdt import tdt_loss as theirs

    from rayapp.asr.tdt_loss import tdt_loss as ours

    generator = torch.Generator().manual_seed(0)
    shape = (batch, frames, labels + 1)
    tokens = torch.randn(*shape, vocabulary + 1, generator=generator).requires_grad_()
    durations = torch.randn(*shape, len(DURATIONS), generator=generator).requires_grad_()
    targets = torch.randint(0, vocabulary, (batch, labels), generator=generator)
    frame_lengths = torch.randint(frames * 2 // 3, frames + 1, (batch,), generator=generator)
    frame_lengths[0] = frames
    label_lengths = torch.randint(labels // 2, labels + 1, (batch,), generator=generator)
    label_lengths[0] = labels

    def run_ours() -> torch.Tensor:
        return ours(
            tokens, durations, targets, frame_lengths, label_lengths, blank=vocabulary, durations=DURATIONS, sigma=SIGMA
        )

    def run_theirs() -> torch.Tensor:
        return theirs(
            tokens, durations, targets, frame_lengths, label_lengths, vocabulary, DURATIONS, SIGMA, reduction="none"
        )

    largest_difference = float((run_ours() - run_theirs()).abs().max())
    times = {"ours": [_seconds(run_ours)], "theirs": [_seconds(run_theirs)]}  # the first round warms up
    for _ in range(rounds):
        times["ours"].append(_seconds(run_ours))
        times["theirs"].append(_seconds(run_theirs))
    ratios = [theirs_s / ours_s for ours_s, theirs_s in zip(times["ours"][1:], times["theirs"][1:], strict=True)]
    return {
        "ours_seconds": round(statistics.median(times["ours"][1:]), 4),
        "theirs_seconds": round(statistics.median(times["theirs"][1:]), 4),
        "ratio": round(statistics.median(ratios), 2),
        "largest_difference": largest_difference,
    }


def _seconds(loss: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    torch.autograd.backward(loss().sum())
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    # The first shape is a batch of the quickstart, the second one of a larger vocabulary.
    shapes = {"quickstart": (16, 45, 40, 128), "larger": (32, 50, 30, 261)}
    results = {name: measure(*shape, rounds=arguments.rounds) for name, shape in shapes.items()}
    report = {
        "ratio": min(result["ratio"] for result in results.values()),
        "shapes": {
            name: dict(zip(("batch", "frames", "labels", "vocabulary"), s, strict=True)) for name, s in shapes.items()
        },
        "results": results,
        "conditions": {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "rounds": arguments.rounds,
        },
    }
    if arguments.json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    for name, result in results.items():
        sys.stdout.write(
            f"{name}: ours {result['ours_seconds']} s, theirs {result['theirs_seconds']} s, ratio {result['ratio']}\n"
        )


if __name__ == "__main__":
    main()
