"""Samples across voices, accents, noise and terms, on one page to listen to and compare."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipelines.config import SynthesisConfig
from pipelines.here import make_here, sample
from pipelines.plan import Planner
from pipelines.synthesize import prepared
from rayapp.audio.codec import encode_flac
from rayapp.records import Slot, Utterance

_LOOKED_AT = 2000
"""Slots of the plan to choose from: enough for variety, few enough for a plan of a million."""


def audition(config: SynthesisConfig, samples: int, page: Path) -> list[dict[str, Any]]:
    """Make the samples and write the page; returns what it says of each.

    Raises `UserError` for settings that a run would refuse.
    """
    config, planner = prepared(config)
    made = make_here(config, varied(planner, samples))
    rows = [_row(clean, finished) for clean, finished in zip(made.clean, made.finished, strict=True)]
    import jinja2

    template = jinja2.Environment(autoescape=True).from_string(
        (files("pipelines") / "templates" / "audition.html.j2").read_text("utf-8")
    )
    page.write_text(template.render(rows=rows, output=config.output), encoding="utf-8")
    return [{name: value for name, value in row.items() if name not in ("clean", "finished")} for row in rows]


def varied(planner: Planner, count: int) -> list[Slot]:
    """Slots that differ most: each next one has the voice, accent, term, style and SNR that were heard least."""
    pool = sample(planner, _LOOKED_AT)
    heard: dict[tuple[str, object], int] = {}
    chosen: list[Slot] = []
    while pool and len(chosen) < count:
        best = min(pool, key=lambda slot: (sum(heard.get(trait, 0) for trait in _traits(slot)), slot.slot_id))
        pool.remove(best)
        chosen.append(best)
        for trait in _traits(best):
            heard[trait] = heard.get(trait, 0) + 1
    return chosen


def _traits(slot: Slot) -> list[tuple[str, object]]:
    return [
        ("voice", slot.voice.name.partition("+")[2] or slot.voice.name),
        ("accent", slot.voice.accent),
        ("engine", slot.voice.engine),
        ("split", slot.split),
        ("style", slot.style),
        ("term", slot.term and slot.term.text),
        ("category", slot.term and slot.term.category),
        ("snr", slot.snr_db // 5),
    ]


def _row(clean: Utterance, finished: Utterance) -> dict[str, Any]:
    slot, transcript = finished.slot, finished.transcript
    return {
        "text": transcript.text if transcript else "",
        "spoken": transcript.spoken if transcript else "",
        "terms": list(transcript.terms) if transcript else [],
        "voices": [f"{voice.name}{f' ({voice.role})' if voice.role else ''}" for voice in slot.cast],
        "accent": slot.voice.accent,
        "style": slot.style,
        "split": slot.split,
        "snr_db": slot.snr_db,
        "seconds": round(finished.duration_seconds, 2),
        "steps": [
            f"{step.name}: {', '.join(f'{k} {json.dumps(v)}' for k, v in step.params.items())}"
            for step in finished.steps
            if step.name != "speech"
        ],
        "status": finished.status,
        "reason": finished.reason,
        "clean": _player(clean),
        "finished": _player(finished),
    }


def _player(utterance: Utterance) -> str | None:
    """The audio as a data URI, so that the page is one file."""
    if utterance.audio is None:
        return None
    return "data:audio/flac;base64," + base64.b64encode(encode_flac(utterance.audio)).decode()
