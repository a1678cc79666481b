"""From what a recogniser is called to where it lies: by its path, in the registry, on Hugging Face's hub, or in NGC."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from rayapp.asr.catalogue import CATALOGUE
from rayapp.errors import UserError
from rayapp.ids import content_id
from rayapp.registry import CHAMPION, Registry
from rayapp.tracking import DEFAULT_HOME

NEMO_FILE, WHISPER_FOLDER = "model.nemo", "model"
"""What a training calls its model."""
_REGISTERED = re.compile(r"([\w-]+)(?:@([\w-]+))?")
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_IN_NGC = re.compile(r"(stt_|parakeet)[\w.-]+")
"""What NeMo calls its recognisers there. It lists them, but to ask it costs some 10 seconds."""
_FORMS = (
    "give the path of a .nemo file or of a folder with a Whisper model, a name in the registry such as "
    "medical-asr@champion (`rayapp models` lists them), one of Hugging Face's hub such as nvidia/parakeet-tdt-0.6b-v2, "
    "or one of NVIDIA's catalogue NGC such as stt_en_fastconformer_ctc_large"
)
_FOLDER_MARKS = ("config.json", "adapter_config.json")
"""What tells of a model that Transformers wrote to a folder, and of an adapter that PEFT wrote."""
WHISPER_FILES = ("*.json", "*.txt", "*.safetensors")
WHISPER_COPIES = ("*.fp32*", "*/*")
"""Weights in other precisions, and what other libraries read."""


def resolve_recogniser(name: str, home: Path = DEFAULT_HOME) -> Path:
    """The `.nemo` file or Whisper folder of a recogniser, which is fetched when it is not on this machine yet.

    name: a path, `NAME@ALIAS` of the registry (`NAME` alone is its champion), `OWNER/NAME` of Hugging Face's hub,
        which goes into the hub's own cache, or a name that NeMo lists in NGC, which goes into NeMo's; both are taken
        from there without a network.
    home: folder of the registry, see `rayapp.tracking`.

    One process calls this, and hands the path to the others: fetching is not meant for many at a time.

    Raises `UserError` for what is not there, or cannot be fetched.
    """
    path = Path(name)
    if path.exists():
        return trained_model(path)
    if path.suffix == ".nemo":
        raise UserError(f"{name} does not exist; {_FORMS}")
    if registered := _REGISTERED.fullmatch(name):
        try:
            return _from_registry(registered[1], registered[2] or CHAMPION, home)
        except UserError:
            if found := _from_ngc(name):
                return found
            raise
    if found := _from_ngc(name):
        return found
    if is_on_hub(name):
        return _from_hub(name)
    raise UserError(f"{name} is the name of no recogniser; {_FORMS}")


def is_on_hub(name: str) -> bool:
    """Whether it can only be a name of Hugging Face's hub."""
    path = Path(name)
    return bool(_ON_HUB.fullmatch(name)) and not path.exists() and path.suffix != ".nemo"


def is_elsewhere(name: str) -> bool:
    """Whether it is the name of what is fetched from Hugging Face's hub or from NGC."""
    return is_on_hub(name) or (bool(_IN_NGC.fullmatch(name)) and not Path(name).exists())


def trained_model(path: Path) -> Path:
    """The `.nemo` file or Whisper folder at a path, or in the output of a training there.

    Raises `UserError` where there is none.
    """
    if not path.exists():
        raise UserError(f"model {path} does not exist; {_FORMS}")
    for found in (path, path / NEMO_FILE, path / WHISPER_FOLDER):
        if _is_model(found):
            return found
    raise UserError(f"{path} is a folder without a model; {_FORMS}")


def _is_model(path: Path) -> bool:
    return path.is_file() or is_whisper(path)


def _from_registry(model: str, alias: str, home: Path) -> Path:
    if not os.environ.get("MLFLOW_TRACKING_URI") and not home.exists():
        raise UserError(
            f"{model}@{alias} is to be looked up in the registry, but there is none in {home}: set "
            f"MLFLOW_TRACKING_URI to one, or {_FORMS}"
        )
    path = Registry(home).resolve(model, alias)
    if not _is_model(path):
        raise UserError(
            f"the registry has {model}@{alias} at {path}, where no model is; publish it anew, or copy it there"
        )
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{name}"
    folder = _fetched(name, page, allow_patterns=["*.nemo", *_FOLDER_MARKS])
    found = sorted(folder.rglob("*.nemo"))
    if len(found) > 1:
        files = ", ".join(str(file.relative_to(folder)) for file in found)
        raise UserError(f"{page} has several .nemo files ({files}): give the path of one, in {folder}")
    if found:
        return found[0]
    if not is_whisper(folder):
        raise UserError(f"{page} has no .nemo file, and is no Whisper model: it cannot be used; {_FORMS}")
    folder = _fetched(name, page, allow_patterns=[*WHISPER_FILES], ignore_patterns=[*WHISPER_COPIES])
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{page} has no weights as .safetensors; load it elsewhere with Transformers, write it with "
            "save_pretrained, and give the path of that folder"
        )
    return folder


def is_whisper(folder: Path) -> bool:
    """Whether Transformers wrote a Whisper model to a folder, or PEFT an adapter."""
    config, adapter = (folder / mark for mark in _FOLDER_MARKS)
    if adapter.is_file():
        return True
    try:
        return bool(json.loads(config.read_text(encoding="utf-8")).get("model_type") == "whisper")
    except (OSError, ValueError):
        return False


def _fetched(name: str, page: str, **patterns: Any) -> Path:
    """The folder of a repository in the hub's cache, with the files that are asked for."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, **patterns))
    except GatedRepoError:
        raise UserError(f"{page} must be asked for: accept its terms there, then set HF_TOKEN to your token") from None
    except RepositoryNotFoundError:
        known = ", ".join(entry.name for entry in CATALOGUE)
        raise UserError(
            f"{page} does not exist, or is private: correct the name (well-known are {known}), or set HF_TOKEN to the "
            "token of somebody who may read it"
        ) from None
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else str(error.__cause__ or error)
        raise UserError(
            f"{name} is not in the cache {constants.HF_HUB_CACHE} yet, and {constants.ENDPOINT} cannot be reached "
            f"({why}): fetch it once where there is a network, or copy its .nemo file here and give the path"
        ) from None
    except Exception as error:  # each way that files come from the hub has errors of its own
        raise UserError(f"{page} cannot be fetched to {constants.HF_HUB_CACHE}: {error}") from error


def _from_ngc(name: str) -> Path | None:
    """None where NeMo lists no such model."""
    if not _IN_NGC.fullmatch(name):
        return None
    from rayapp.asr.nemo import quiet_nemo

    with quiet_nemo():
        from nemo.collections.asr.models import ASRModel

        listed = {model.pretrained_model_name: model for model in ASRModel.list_available_models()}
        return _fetched_from_ngc(name, listed[name].location) if name in listed else None


def _fetched_from_ngc(name: str, location: str) -> Path:
    from nemo.utils.cloud import maybe_download_from_cloud
    from nemo.utils.data_utils import resolve_cache_dir

    address, _, file = location.rpartition("/")
    path = Path(resolve_cache_dir()) / "ngc" / content_id(address) / file
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # NeMo takes half a file in its cache for a whole one
        try:
            fetched = maybe_download_from_cloud(f"{address}/", file, cache_dir=Path(folder))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name} cannot be fetched from {address} to {path.parent}: {error}; fetch it where there is a "
                "network, and give the path of its .nemo file"
            ) from error
        Path(fetched).replace(path)
    return path
