"""Bytes of parameters, gradients and optimizer state that a rank holds under each ZeRO stage, against the formula.

Formula: ZeRO paper, https://arxiv.org/abs/1910.02054, section 5 and figure 1, for Ψ parameters and N ranks. Numbers
are float32 here, so that parameters and gradients have 4Ψ bytes each in place of the paper's 2Ψ. The optimizer has
KΨ: 8Ψ for Adam's momentum and variance, and with ZeRO 12Ψ, since DeepSpeed keeps a copy of the parameters as well, as
the paper's K = 12 does. Stage 1 divides the optimizer's by N, stage 2 the gradients' too, stage 3 the parameters' too.

Measured on the live engine after a step, while gradients wait for a second batch; of the ranks, the one with most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

RANKS = 2
STAGES = (0, 1, 2, 3)
WHAT = ("parameters", "gradients", "optimizer")
WIDTH, LAYERS, VOCABULARY = 256, 12, 1000


class Transformer(torch.nn.Module):
    """A plain encoder that guesses its own input; its forward is the loss."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True)
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = torch.nn.TransformerEncoder(layer, LAYERS)
        self.output = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        guesses = self.output(self.encoder(self.embedding(tokens)))
        return torch.nn.functional.cross_entropy(guesses.flatten(0, 1), tokens.flatten())


def formula(parameters: int, stage: int) -> dict[str, float]:
    """Bytes a rank, for so many parameters."""
    return {
        "parameters": 4 * parameters / (RANKS if stage >= 3 else 1),
        "gradients": 4 * parameters / (RANKS if stage >= 2 else 1),
        "optimizer": 12 * parameters / RANKS if stage >= 1 else 8 * parameters,
    }


def measure(stage: int) -> dict[str, int]:
    """Bytes of this rank."""
    from pipelines.training.engine import DeepSpeedEngine, zero_settings
    from pipelines.training.schedule import Schedule

    torch.manual_seed(0)
    module = Transformer()
    settings = zero_settings(batch_size=1, on_gpu=False, zero_stage=stage, gradient_accumulation_steps=2)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # small ones would be kept whole
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    engine = DeepSpeedEngine(module, optimizer, Schedule(), settings)
    for _ in range(3):
        engine.backward_and_step(engine.loss(torch.randint(VOCABULARY, (1, 16))), 0.5)
    held = engine.memory()
    return {
        "parameters": held["parameters"],
        "gradients": held["gradients"],
        "optimizer": held["optimizer_state"] + held["master_parameters"],
    }


def _run_rank(rank: int, folder: str) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    held = [measure(stage) for stage in STAGES]
    Path(folder, f"{rank}.json").write_text(json.dumps(held))
    dist.destroy_process_group()


def run() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        spawn(_run_rank, (folder,), nprocs=RANKS)
        held = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]
    parameters = sum(parameter.numel() for parameter in Transformer().parameters())
    stages = {}
    for stage in STAGES:
        expected = formula(parameters, stage)
        most = {what: max(of_rank[stage][what] for of_rank in held) for what in WHAT}
        stages[f"zero_{stage}"] = {
            what: {"bytes": most[what], "formula": expected[what], "ratio": round(most[what] / expected[what], 4)}
            for what in WHAT
        }
    ratios = [of[what]["ratio"] for of in stages.values() for what in WHAT]
    return {
        "largest_ratio": max(ratios),
        "smallest_ratio": min(ratios),
        "parameters": parameters,
        "ranks": RANKS,
        "stages": stages,
        "conditions": {"torch": torch.__version__, "deepspeed": version("deepspeed"), "machine": platform.machine()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    report = run()
    if arguments.json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    stages = report["stages"]
    assert isinstance(stages, dict)
    for stage, of in stages.items():
        told = [f"{what} {of[what]['bytes'] / 1e6:.1f} MB ({of[what]['ratio']:.3f} of the formula)" for what in WHAT]
        sys.stdout.write(f"{stage}: {', '.join(told)}\n")


if __name__ == "__main__":
    main()
