"""From what a recogniser is called to its `.nemo` file: by its path, in the registry, or on Hugging Face's hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rayapp.asr.catalogue import CATALOGUE
from rayapp.errors import UserError
from rayapp.registry import CHAMPION, Registry
from rayapp.tracking import DEFAULT_HOME

_REGISTERED = re.compile(r"([\w-]+)(?:@([\w-]+))?")
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FORMS = (
    "give the path of a .nemo file, a name in the registry such as medical-asr@champion (`rayapp models` lists them), "
    "or one of Hugging Face's hub such as nvidia/parakeet-tdt-0.6b-v2"
)


def resolve_recogniser(name: str, home: Path = DEFAULT_HOME) -> Path:
    """The `.nemo` file of a recogniser, which is fetched when it is not on this machine yet.

    name: a path, `NAME@ALIAS` of the registry (`NAME` alone is its champion), or `OWNER/NAME` of Hugging Face's hub,
        which goes into the hub's own cache and is taken from there without a network.
    home: folder of the registry, see `rayapp.tracking`.

    Raises `UserError` for what is not there, or cannot be fetched.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == ".nemo":
        raise UserError(f"{name} does not exist; {_FORMS}")
    if registered := _REGISTERED.fullmatch(name):
        return _from_registry(registered[1], registered[2] or CHAMPION, home)
    if _ON_HUB.fullmatch(name) and not path.exists():
        return _from_hub(name)
    raise UserError(f"{name} is {'a folder' if path.is_dir() else 'the name of no recogniser'}; {_FORMS}")


def _from_registry(model: str, alias: str, home: Path) -> Path:
    if not os.environ.get("MLFLOW_TRACKING_URI") and not home.exists():
        raise UserError(
            f"{model}@{alias} is to be looked up in the registry, but there is none in {home}: set "
            f"MLFLOW_TRACKING_URI to one, or {_FORMS}"
        )
    path = Registry(home).resolve(model, alias)
    if not path.is_file():
        raise UserError(
            f"the registry has {model}@{alias} at {path}, where no file is; publish it anew, or copy it there"
        )
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    page = f"{constants.ENDPOINT}/{name}"
    try:
        folder = Path(snapshot_download(name, allow_patterns="*.nemo"))
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
    found = sorted(folder.rglob("*.nemo"))
    if not found:
        raise UserError(f"{page} has no .nemo file: it is no model of NeMo's; {_FORMS}")
    if len(found) > 1:
        files = ", ".join(str(file.relative_to(folder)) for file in found)
        raise UserError(f"{page} has several .nemo files ({files}): give the path of one, in {folder}")
    return found[0]
