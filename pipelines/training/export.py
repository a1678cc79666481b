"""A trained recogniser in the formats of other tools, with a card that says what it is and where it comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rayapp.asr.resolve import is_on_hub, trained_model
from rayapp.errors import UserError
from rayapp.ids import content_id, path_id
from rayapp.manifest import Manifest
from rayapp.storage import key_of, published_folder


@dataclass(frozen=True)
class Card:
    """What a person who gets the model should know of it."""

    name: str
    licence: str
    """As Hugging Face names them (https://huggingface.co/docs/hub/repositories-licenses)."""
    languages: tuple[str, ...]
    """Codes such as `en`."""
    lineage: str
    """Markdown: what it was trained on, and how that was made."""
    base_model: str | None = None
    """What it was trained from; None where it began with random weights."""
    figures: Mapping[str, float] | None = None
    """By what they measure."""


def card_of(model: Path, name: str, licence: str) -> Card:
    """By what a training and its manifests tell; of a model that comes without its training, little.

    model: as `export` takes it.
    """
    folder = model if (model / "config.json").is_file() and (model / "metrics.json").is_file() else model.parent
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["figures"]
        start = settings["model"]["start"]
    except (OSError, ValueError, KeyError, TypeError):
        return Card(name, licence, languages=("en",), lineage="Nothing tells what it was trained on.")
    languages, lineage = [], []
    for source in settings["sources"]:
        told = f"- manifest `{source['manifest']}`, split `{source['split']}`: "
        try:
            manifest = Manifest(source["manifest"])
            languages += _languages(manifest)
            lineage.append(f"{told}{', '.join(manifest.licences)} ({key_of(source['manifest'])})")
        except UserError:  # it was moved, or deleted
            lineage.append(f"{told}not to be found when this was written")
    hours = f"{figures['train_hours']:g} hours in each of {settings['epochs']} epochs, from:"
    return Card(
        name,
        licence,
        tuple(dict.fromkeys(languages)) or ("en",),
        "\n".join([hours, "", *lineage]),
        base_model=start,
        figures={what: value for what, value in figures.items() if what.startswith("validation_")},
    )


def _languages(manifest: Manifest) -> list[str]:
    told = manifest.card().get("language") or []
    return [told] if isinstance(told, str) else list(told)


def export(model: Path, output: Path, form: str, card: Card) -> None:
    """Publish a folder with the model and its card, `README.md`; where the same is there already, do nothing.

    model: a `.nemo` file, a Whisper folder, or the folder of a training.
    form: one of `FORMS`.

    Raises `UserError` for a form that there is not, or not of this kind of model.
    """
    if form not in FORMS:
        raise UserError(f"there is no form {form!r}; known: {', '.join(FORMS)}")
    path = trained_model(model)
    key = content_id("export", path_id(path), form, asdict(card))
    if key_of(output) == key:
        return
    write, is_for_whisper = FORMS[form]
    if path.is_dir() != is_for_whisper:
        fitting = ", ".join(name for name, (_, whisper) in FORMS.items() if whisper == path.is_dir())
        kind = "a Whisper" if path.is_dir() else "one of NeMo's models"
        raise UserError(f"{path} is {kind}, which cannot be written as {form}; valid: {fitting}")
    with published_folder(output, key) as folder:
        use = write(path, folder, card.name)
        (folder / "README.md").write_text(_readme(card, use, whisper=is_for_whisper), encoding="utf-8")


def _as_nemo(model: Path, folder: Path, name: str) -> str:
    """By the name that NeMo looks for in a repository that is called so."""
    shutil.copyfile(model, folder / f"{name}.nemo")
    return f'from nemo.collections.asr.models import ASRModel\n\nmodel = ASRModel.restore_from("{name}.nemo")'


def _as_transformers(model: Path, folder: Path, _name: str) -> str:
    """A whole model: an adapter is merged into its base."""
    from rayapp.asr.whisper import WhisperRecogniser

    WhisperRecogniser.load(model).save(folder)
    return 'from transformers import pipeline\n\nhear = pipeline("automatic-speech-recognition", "FOLDER")'


def _as_torchscript(model: Path, folder: Path, _name: str) -> str:
    files = _graphs(model, folder, "model.ts")
    return (
        f'import torch\n\nmodel = torch.jit.load("{files[0]}")  # mel features (batch, mels, frames), lengths (batch,)'
    )


def _as_onnx(model: Path, folder: Path, _name: str) -> str:
    files = _graphs(model, folder, "model.onnx")
    return (
        f'import onnxruntime\n\nmodel = onnxruntime.InferenceSession("{files[0]}")\n'
        "# takes audio_signal: mel features, (batch, mels, frames), and length: how many frames each has, (batch,)"
    )


def _graphs(model: Path, folder: Path, name: str) -> list[str]:
    """The networks, and what is needed around them: the settings of the mel features, and the tokenizer."""
    import tarfile

    from rayapp.asr.nemo import NemoRecogniser

    NemoRecogniser.load(model).export(folder / name)
    graphs = sorted(file.name for file in folder.iterdir() if file.suffix == Path(name).suffix)
    with tarfile.open(model) as archive:
        for member in archive.getmembers():
            if member.isfile() and not member.name.endswith(".ckpt"):
                archive.extract(member, folder, filter="data")
    return sorted(graphs, key=lambda file: "decoder" in file)


FORMS: Mapping[str, tuple[Callable[[Path, Path, str], str], bool]] = {
    "nemo": (_as_nemo, False),
    "onnx": (_as_onnx, False),
    "torchscript": (_as_torchscript, False),
    "transformers": (_as_transformers, True),
}
"""Of each form: what writes it and returns how it is used, in Python; and whether it is for Whisper or for NeMo."""


def _readme(card: Card, use: str, *, whisper: bool) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        language=list(card.languages),
        license=card.licence,
        library_name="transformers" if whisper else "nemo",
        base_model=card.base_model if card.base_model and is_on_hub(card.base_model) else None,
        pipeline_tag="automatic-speech-recognition",
        tags=["automatic-speech-recognition", "speech", "rayapp"],
        model_name=card.name,
    )
    start = f"Trained from `{card.base_model}`." if card.base_model else "Trained from random weights."
    figures = "\n".join(f"| {name} | {value:g} |" for name, value in (card.figures or {}).items())
    sections = (
        f"---\n{data.to_yaml()}\n---",
        f"# {card.name}",
        f"Hears speech (16 kHz, mono) in: {', '.join(card.languages)}. {start}",
        f"## Use\n\n```python\n{use}\n```",
        f"## Data\n\n{card.lineage}",
        *([f"## Figures\n\n| figure | value |\n| --- | --- |\n{figures}"] if figures else []),
        f"## Licence\n\n`{card.licence}`",
    )
    return "\n\n".join(sections) + "\n"
