"""The dataset card: a README that says what a manifest holds, for people and for Hugging Face's libraries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from pyarrow import fs

from pipelines.manifests.figures import Figures, Tally, measure
from rayapp.manifest import Manifest
from rayapp.storage import join, open_filesystem, write_file

CLONED_VOICES = "cloned-voices"
"""Tag of a card: voices were cloned from recordings of people."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_BESIDE = {
    "config.json": "the settings in force",
    "plan": "the slots that were planned",
    "summary.json": "what the run took",
    "sources.json": "the manifests that this one was merged from",
}
"""What may lie beside the shards, and what the card says of it."""
_TITLES = {
    "split": "By split",
    "language": "By language",
    "category": "By category of the term",
    "accent": "By accent",
    "snr": "By signal-to-noise ratio",
    "style": "By style of the sentence",
    "generator": "By writer of the sentence",
}


def write_card(location: str, name: str, licences: Sequence[str], *, cloned_voices: bool = False) -> None:
    """Write the `README.md` of the manifest whose shards lie in `location`, which need not be published yet.

    licences: as Hugging Face names them (https://huggingface.co/docs/hub/repositories-licenses); several where the
        manifest was merged from manifests whose licences differ.
    """
    figures = measure(Manifest.being_written(location))
    metadata = card_metadata(figures, name, licences, cloned_voices=cloned_voices)
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    people = list(_people(figures, cloned_voices=cloned_voices))
    sections = (
        f"# {name}",
        *_introduction(figures, people),
        *_origin(figures, location),
        *_licences(figures, licences),
        *_contents(figures),
    )
    body = "\n\n".join(sections)
    write_file(join(location, "README.md"), f"---\n{front}---\n\n{body}\n".encode())


def card_metadata(
    figures: Figures, name: str, licences: Sequence[str], *, cloned_voices: bool = False
) -> dict[str, Any]:
    """What Hugging Face's hub and `datasets.load_dataset` read of a card; `licenses` is for `Manifest.licences`."""
    splits = figures.tallies.get("split", {})
    kinds = [*(["synthetic"] if _is_synthetic(figures) else []), *([CLONED_VOICES] if cloned_voices else [])]
    return {
        "pretty_name": name,
        **({"license": licences[0]} if len(licences) == 1 else {"license": "other", "licenses": list(licences)}),
        "language": [language for language in figures.tallies.get("language", {}) if language != "none"],
        "task_categories": ["automatic-speech-recognition"],
        "size_categories": [next((size for bound, size in _SIZES if figures.utterances < bound), "n>1M")],
        "tags": ["audio", "speech", "rayapp", *kinds],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    }


def _is_synthetic(figures: Figures) -> bool:
    return "none" not in figures.tallies.get("engine", {"none": Tally()})


def _people(figures: Figures, *, cloned_voices: bool) -> Iterator[str]:
    """Where people come into synthetic speech."""
    if cloned_voices:
        yield "Voices were cloned from recordings of people."
    if backgrounds := figures.licences.get("noise"):
        yield f"{backgrounds.total()} utterances have recorded backgrounds, in which people may be heard."


def _introduction(figures: Figures, people: Sequence[str]) -> Iterator[str]:
    kind = "synthetic speech" if _is_synthetic(figures) else "speech"
    nobody = ": nobody was recorded, no patient data" if _is_synthetic(figures) and not people else ""
    yield f"{figures.utterances} utterances, {_hours(figures.seconds)} hours of {kind}{nobody}. 16 kHz mono FLAC."
    if people:
        yield " ".join(people)
    yield (
        "```python\n"
        "from datasets import Audio, load_dataset\n\n"
        'speech = load_dataset("FOLDER").cast_column("audio", Audio(sampling_rate=16000))\n'
        "```"
    )


def _origin(figures: Figures, location: str) -> Iterator[str]:
    yield "## How it was made"
    lines = [
        f"- sentences written by: {_shares(figures.tallies.get('generator', {}))}",
        f"- spoken by: {_shares(figures.tallies.get('engine', {}))}",
        f"- done to the audio, with the version of each step: {_listed(figures.steps)}",
    ]
    lines += [f"- `{file}`: {what}" for file, what in _BESIDE.items() if _is_there(join(location, file))]
    yield "\n".join(lines)


def _licences(figures: Figures, licences: Sequence[str]) -> Iterator[str]:
    yield "## Licence" if len(licences) == 1 else "## Licences"
    if len(licences) == 1:
        yield f"`{licences[0]}`"
    else:
        named = ", ".join(f"`{licence}`" for licence in licences)
        yield f"It was merged from manifests of different licences: {named}. `sources.json` tells which has which."
    if figures.licences:
        yield "Recordings of others are in it, each under a licence of its own:"
        rows = {
            f"{step}: {licence}": [str(count)]
            for step, licences_of_step in figures.licences.items()
            for licence, count in licences_of_step.most_common()
        }
        yield _table(["step, and licence of the recording", "utterances"], rows)


def _contents(figures: Figures) -> Iterator[str]:
    yield "## What it holds"
    for grouping, title in _TITLES.items():
        tallies = figures.tallies.get(grouping, {})
        heads, rows = ["utterances", "hours"], {name: _cells(tally) for name, tally in tallies.items()}
        if grouping == "accent":
            heads, rows = [*heads, "voices"], {n: [*cells, str(len(figures.voices[n]))] for n, cells in rows.items()}
        yield f"### {title}\n\n{_table([grouping, *heads], rows)}"
    if figures.quality:
        rows = {name: [f"{mean.mean:.3f}", str(mean.utterances)] for name, mean in figures.quality.items()}
        yield f"### Quality\n\n{_table(['figure', 'mean', 'utterances that have it'], rows)}"
    if figures.rejections:
        rejected = {reason: [str(count)] for reason, count in figures.rejections.most_common()}
        yield f"## Rejected\n\nIn `data/rejected-*`, without audio.\n\n{_table(['reason', 'utterances'], rejected)}"


def _table(heads: list[str], rows: Mapping[str, Iterable[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([name.replace("|", "\\|"), *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(tally: Tally) -> list[str]:
    return [str(tally.utterances), _hours(tally.seconds)]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def _shares(tallies: Mapping[str, Tally]) -> str:
    return _listed({name: tally.utterances for name, tally in tallies.items()})


def _listed(counts: Mapping[str, int]) -> str:
    """
    >>> _listed({"noise v1": 10, "room v2": 5})
    'noise v1 (10), room v2 (5)'
    """
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "nothing told"


def _is_there(location: str) -> bool:
    filesystem, path = open_filesystem(location)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound
