"""What a checkpoint of a run holds, how it is written by all ranks together, and how a run goes on from it.

A checkpoint is a folder: the engine's files, of each rank a `rank_00000.pt`, and `checkpoint.json`, which is written
last. A folder without it is half of a checkpoint, and is not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import random
import socket
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from pipelines.training.config import CHECKPOINTS
from rayapp.errors import UserError
from rayapp.storage import open_filesystem

if TYPE_CHECKING:
    from pyarrow import fs
    from ray.train import Checkpoint, CheckpointConfig

    from pipelines.training.engine import Engine

FACTS = "checkpoint.json"
SCORE = "validation_wer"
"""The metric by which checkpoints are kept."""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself, as `checkpoint.json`."""

    step: int
    position: Mapping[str, Any]
    """How much of the input was consumed, as the input tells it; JSON."""
    model: str
    """What the run started from."""
    figures: Mapping[str, float]
    """What was measured last."""
    engine: str
    zero_stage: int
    optimizer: str
    ranks: int
    """Of the run that wrote it."""
    parameters: Mapping[str, list[int]]
    """Names and shapes of what the optimizer has."""

    @classmethod
    def of(
        cls,
        engine: Engine,
        *,
        step: int,
        position: Mapping[str, Any],
        model: str,
        figures: Mapping[str, float],
    ) -> Facts:
        """With what the engine knows."""
        known = engine.in_force()
        return cls(
            step,
            position,
            model,
            figures,
            engine=known["engine"],
            zero_stage=known["zero_stage"],
            optimizer=known["optimizer"],
            ranks=known["ranks"],
            parameters=engine.shapes,
        )

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Facts:
        """Raises `UserError` for a folder that is no whole checkpoint."""
        try:
            with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{FACTS}") as stream:
                return cls(**json.loads(stream.read()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{checkpoint.path} is no complete checkpoint ({FACTS}: {error}); resume from another one"
            ) from None

    def require_fit(self, engine: Engine, where: str) -> None:
        """Raises `UserError` unless the engine can go on from this checkpoint."""
        mine = engine.in_force()
        for what, there in (("engine", self.engine), ("zero_stage", self.zero_stage), ("optimizer", self.optimizer)):
            if mine[what] != there:
                raise UserError(
                    f"checkpoint {where} was written with {what} {there}, not {mine[what]}: resume it with {there}, or "
                    "train on from its model"
                )
        shapes = engine.shapes
        names = sorted({*shapes, *self.parameters})
        differing = [name for name in names if shapes.get(name) != self.parameters.get(name)]
        if differing:
            first = differing[0]
            raise UserError(
                f"checkpoint {where} is of another model, or one with other parts frozen: {len(differing)} parameters "
                f"differ, the first is {first} ({_shape(self.parameters.get(first))} there, "
                f"{_shape(shapes.get(first))} here); resume with the model and freezing of {self.model}, or start anew"
            )


def learning_shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    """Names and shapes of the parameters that learn, of a module that is not sharded."""
    return {name: list(p.shape) for name, p in module.named_parameters() if p.requires_grad}


def _shape(shape: list[int] | None) -> str:
    return "not" if shape is None else "×".join(map(str, shape)) or "scalar"


def best_kept(count: int, *, scored: bool) -> CheckpointConfig:
    """Ray keeps so many checkpoints with the lowest `SCORE` of their metrics, and the latest; others are removed.

    scored: whether there is a score; without, the latest are kept.
    """
    from ray.train import CheckpointConfig

    score = SCORE if scored else None
    return CheckpointConfig(num_to_keep=count, checkpoint_score_attribute=score, checkpoint_score_order="min")


def report(engine: Engine, facts: Facts, metrics: Mapping[str, float]) -> None:
    """Write a checkpoint to the run's storage and tell Ray Train of it. Every rank calls this, equally often.

    Each rank's files go to a folder of its own and from there to the storage, where they meet.

    Raises `UserError`, on all ranks, where one could not write; checkpoints that were there before stay as they were.
    """
    import ray.train

    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        save(engine, Path(folder))
        storage = ray.train.get_context().get_storage()
        ray.train.report(
            dict(metrics),
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_upload_fn=partial(publish, facts=facts, storage=storage),
        )


def save(engine: Engine, folder: Path) -> None:
    """Each rank's files into a folder on its machine; `publish` brings them together.

    Raises `UserError`, on all ranks, where one could not write.
    """
    together(lambda: engine.save(folder), str(folder))


def publish(checkpoint: Checkpoint, name: str, *, facts: Facts, storage: Any) -> Checkpoint:
    """Copy this rank's files into the folder `name` of the storage; the facts follow once all ranks are through.

    storage: Ray Train's `StorageContext`. What Ray itself does would leave half a checkpoint where the disk is full.
    """
    target = storage.build_checkpoint_path_from_name(name)
    filesystem: fs.FileSystem = storage.storage_filesystem
    try:
        together(lambda: storage.persist_current_checkpoint(checkpoint, name), target)
        together(lambda: _write_facts(filesystem, target, facts) if dist.get_rank() == 0 else None, target)
    except Exception:
        together(lambda: _delete(filesystem, target) if dist.get_rank() == 0 else None, target)
        raise
    published: Checkpoint = type(checkpoint)(target, filesystem)
    return published


def remove_half_written(storage: Any) -> None:
    """Delete what ranks that were killed left in the storage of their run. Rank 0 calls this before training."""
    for folder in _folders(storage.storage_filesystem, storage.experiment_fs_path):
        if not _is_whole(storage.storage_filesystem, folder):
            _delete(storage.storage_filesystem, folder)


def checkpoint_at(location: str | Path) -> Checkpoint:
    """The checkpoint in a folder, or the latest complete one of a training's output or of its folder of checkpoints.

    Raises `UserError` where there is none.
    """
    from ray.train import Checkpoint

    filesystem, path = open_filesystem(location)
    within = [*_folders(filesystem, path), *_folders(filesystem, f"{path}/{CHECKPOINTS}")]
    folders = [path] if _is_whole(filesystem, path) else within
    whole = [Checkpoint(folder, filesystem) for folder in folders if _is_whole(filesystem, folder)]
    if not whole:
        raise UserError(
            f"no complete checkpoint at {location}: neither it nor a checkpoint_… within holds {FACTS}; give the "
            "folder of another run"
        )
    return max(whole, key=lambda checkpoint: Facts.read(checkpoint).step)


def resume(engine: Engine, checkpoint: Checkpoint) -> Facts:
    """Put an engine into the state of a checkpoint, whatever number of ranks wrote it. Every rank calls this.

    Only what this project's own runs wrote may be given: DeepSpeed reads its files by pickle, which can run anything.

    Raises `UserError` for half of a checkpoint, and for one of another model or engine.
    """
    facts = Facts.read(checkpoint)
    facts.require_fit(engine, checkpoint.path)
    with checkpoint.as_directory() as folder:
        engine.load(Path(folder))
        dist.barrier()  # the folder may go with the first that leaves
    return facts


def save_rank(folder: Path, module: torch.nn.Module) -> None:
    """Write what is this rank's alone: random states, and the module's buffers (running means are never averaged)."""
    state = {
        "python": random.getstate(),
        "numpy": _numpy_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "buffers": _buffers(module),
    }
    write_state(state, folder / _rank_file(dist.get_rank()))


def write_state(state: Any, path: Path) -> None:
    """Through a file of Python's: torch's own does not tell that the disk is full."""
    with path.open("wb") as file:
        torch.save(state, file)


def load_rank(folder: Path, module: torch.nn.Module) -> None:
    """A rank that was not there then takes the buffers of rank 0, and keeps the random states that it has."""
    mine = folder / _rank_file(dist.get_rank())
    state = torch.load(mine if mine.exists() else folder / _rank_file(0), weights_only=True, map_location="cpu")
    for name, buffer in _buffers(module).items():
        buffer.copy_(state["buffers"][name])
    if not mine.exists():
        return
    random.setstate(state["python"])
    keys = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(state["numpy"] | {"state": state["numpy"]["state"] | {"key": keys}})
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


def ranks_of(folder: Path) -> int:
    """How many ranks wrote a checkpoint."""
    return len(list(folder.glob("rank_*.pt")))


@contextlib.contextmanager
def universal_checkpoint(folder: Path) -> Iterator[Path]:
    """DeepSpeed's files, in a folder of the form that any number of ranks reads; gone afterwards.

    The first rank of each machine makes it, so no disk need be shared; the others wait.
    """
    with tempfile.TemporaryDirectory(prefix="universal-") as mine:
        places: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(places, (socket.gethostname(), mine))
        here = next(place for host, place in places if host == socket.gethostname())
        universal = Path(here) / "universal"
        together(lambda: _convert(folder, universal) if here == mine else None, here)
        yield universal
        dist.barrier()


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint.ds_to_universal import main

    settings = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(Namespace(input_folder=str(source), output_folder=str(target), inject_missing_state=True, **settings))


def _rank_file(rank: int) -> str:
    return f"rank_{rank:05d}.pt"


def average_buffers(module: torch.nn.Module) -> None:
    """Of the ranks, whose batch norms have seen different batches. All call this."""
    for buffer in _buffers(module).values():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def _buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Those that belong to the module's state."""
    kept = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in kept}


def _numpy_state() -> dict[str, Any]:
    """As plain types and tensors, which are read without pickle."""
    state: dict[str, Any] = np.random.get_state(legacy=False)
    key = torch.from_numpy(state["state"]["key"].astype(np.int64))
    return state | {"state": state["state"] | {"key": key}}


def together(act: Callable[[], object], where: str) -> None:
    """Act on every rank, and fail on all of them if one does: none waits for a rank that has given up."""
    failure: Exception | None = None
    try:
        act()
    except Exception as error:
        failure = error
    failures: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure and (_refusal(failure), str(failure)))
    failed = [(rank, *of) for rank, of in enumerate(failures) if of is not None]
    if not failed:
        return
    rank, refusal, text = failed[0]
    if refusal:
        raise UserError(
            f"{refusal}: rank {rank} could not write its part of the checkpoint to {where}. Earlier checkpoints are as "
            "they were; free some room, or keep fewer of them, and run this again"
        ) from failure
    raise failure or RuntimeError(f"rank {rank} failed at its part of the checkpoint: {text}")


def _refusal(error: BaseException | None) -> str | None:
    """What the system said; torch.save covers that with an error of its own."""
    while error is not None:
        if isinstance(error, OSError):
            return "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return None


def _write_facts(filesystem: fs.FileSystem, folder: str, facts: Facts) -> None:
    """Under another name first: a facts file is whole, or not there."""
    with filesystem.open_output_stream(f"{folder}/.{FACTS}.tmp") as stream:
        stream.write(json.dumps(dataclasses.asdict(facts)).encode())
    filesystem.move(f"{folder}/.{FACTS}.tmp", f"{folder}/{FACTS}")


def _folders(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The folders in a folder that Ray Train named as checkpoints."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(i.path for i in found if i.type == fs.FileType.Directory and i.base_name.startswith("checkpoint_"))


def _is_whole(filesystem: fs.FileSystem, folder: str) -> bool:
    from pyarrow import fs

    return bool(filesystem.get_file_info(f"{folder}/{FACTS}").type == fs.FileType.File)


def _delete(filesystem: fs.FileSystem, folder: str) -> None:
    with contextlib.suppress(OSError):  # what went wrong before is on its way to the caller
        filesystem.delete_dir(folder)
