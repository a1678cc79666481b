"""Where a Coqui model lies: names of the catalogue become paths, downloaded once by whoever starts the run.

Coqui's downloader asks on standard input whether a licence is accepted, and takes a folder that an interrupted
download left behind for a finished one; both would leave a run hanging or broken.
"""

from __future__ import annotations

import difflib
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.speech.coqui.config import CoquiConfig
from rayapp.errors import UserError

if TYPE_CHECKING:
    from TTS.utils.manage import ModelManager

_FAIRSEQ = "fairseq"
"""Part of the name of Meta's models of 1,100 languages, which the catalogue does not list one by one."""


def resolve(config: CoquiConfig) -> CoquiConfig:
    """The same settings with paths in place of names, after downloading what is not there yet.

    Raises `UserError` for a model that is neither here nor in the catalogue, whose licence is not accepted, or that
    cannot be downloaded.
    """
    vocoder = config.vocoder
    if vocoder is None and not Path(config.model).exists():
        vocoder = _entry(config.model, _manager(config.models_file)).get("default_vocoder")
    paths = {"model": _located(config.model, config), "vocoder": vocoder and _located(vocoder, config)}
    return config.model_copy(update=paths)


def model_file(model: Path) -> Path:
    """The weights of a model: the file in its folder, or the folder where the model reads several.

    Raises `UserError` where there is no config.json beside them.
    """
    from TTS.utils.manage import ModelManager

    folder = model if model.is_dir() else model.parent
    if not (folder / "config.json").is_file():
        raise UserError(
            f"Coqui model {model} has no config.json in {folder}; point speech.coqui.model to a folder that holds the "
            "model and its config.json"
        )
    if model.is_file():
        return model
    try:
        return Path(ModelManager._find_files(folder)[0])
    except ValueError:  # of several files, none is named as the model: such models read their folder
        return folder


@contextmanager
def readable_config(model: Path) -> Iterator[Path]:
    """The path of the model's config.json in which the paths of further files (speakers, languages, …) are right.

    A config names them as they lay where the model was trained; they lie beside it now. It is a copy: a model may lie
    where nobody can write.
    """
    folder = model if model.is_dir() else model.parent
    if is_fairseq(model):  # its config.json is not Coqui's
        yield folder / "config.json"
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copy(folder / "config.json", scratch))
        copy.chmod(0o644)
        _manager(None)._update_paths(folder, copy)
        yield copy


def is_fairseq(model: Path) -> bool:
    """Whether Coqui will take it for one of Meta's models, whose config.json has another format."""
    return _FAIRSEQ in str(model)


def _manager(models_file: Path | None) -> ModelManager:
    from TTS.utils.manage import ModelManager

    try:
        return ModelManager(models_file=models_file)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"speech.coqui.models_file {models_file} cannot be read as a catalogue of Coqui: {error}"
        ) from None


def _entry(name: str, manager: ModelManager) -> dict[str, Any]:
    """What the catalogue says of a model; raises `UserError` for one that it does not have."""
    parts = name.split("/")
    if len(parts) == 4 and _FAIRSEQ in parts:
        return {}
    known = {
        f"{kind}/{language}/{dataset}/{model}": entry
        for kind, languages in manager.models_dict.items()
        for language, datasets in languages.items()
        for dataset, models in datasets.items()
        for model, entry in models.items()
    }
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or sorted(known)[:5]
        raise UserError(
            f"Coqui model {name!r} is neither a path here nor in the catalogue; near to it are {', '.join(near)} "
            "(`tts --list_models` lists all)"
        )
    return known[name]


def _located(model: str, config: CoquiConfig) -> str:
    if Path(model).exists():
        return str(Path(model).resolve())
    manager = _manager(config.models_file)
    entry = _entry(model, manager)
    folder = Path(manager.output_prefix) / model.replace("/", "--")
    if not manager.tos_agreed(entry, folder):
        raise UserError(
            f"Coqui model {model} has a licence ({entry.get('license', 'see its page')}) that you must accept first, "
            "non-commercial use only unless you bought another: https://tts-hub.github.io/cpml. Set "
            "COQUI_TOS_AGREED=1 to accept it, or choose another model in speech.coqui.model"
        )
    return str(_downloaded(model, folder, manager))


def _downloaded(model: str, folder: Path, manager: ModelManager) -> Path:
    is_new = not folder.exists()
    try:
        return Path(manager.download_model(model)[0])
    except BaseException as error:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError | ValueError | zipfile.BadZipFile | tarfile.TarError):
            raise
        raise UserError(
            f"Coqui model {model} cannot be downloaded to {folder}: {error}. Without access to the internet, copy the "
            "model here and give its folder as speech.coqui.model, or name a mirror in speech.coqui.models_file"
            f"{'' if is_new else f'; if {folder} is left over from an interrupted download, remove it'}"
        ) from error
