"""Manifests as lhotse reads them: Shar, its format of tarred shards, written by lhotse itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.manifests.export import ROWS_PER_SHARD, Exported, Source

if TYPE_CHECKING:
    from lhotse.cut import MonoCut


def export_shar(source: Source, output: Path) -> None:
    """Write a Shar folder `<split>/` for each split; `CutSet.from_shar(in_dir="FOLDER/train")` reads it."""
    from lhotse.shar import SharWriter

    with source.publish(output) as folder:
        for split in source.rows:
            (folder / split).mkdir()
            with SharWriter(folder / split, fields={"recording": "flac"}, shard_size=ROWS_PER_SHARD) as writer:
                for utterance in source.utterances(split):
                    writer.write(cut_of(utterance))


def cut_of(utterance: Exported) -> MonoCut:
    """An utterance with its audio in memory, and one supervision.

    That has the text, the voice as speaker, our IDs and terms, and as its alignment the words' times where they are
    known.
    """
    from lhotse import Recording, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    row, name = utterance.row, utterance.name
    recording = Recording.from_bytes(utterance.flac, recording_id=name)
    supervision = SupervisionSegment(
        id=name,
        recording_id=name,
        start=0.0,
        duration=recording.duration,
        channel=0,
        text=row["text"],
        language=row["language"],
        speaker=row["voice"],
        custom=utterance.told,
    )
    times = [(word["text"], word["start_seconds"], word["end_seconds"]) for word in row["words"] or ()]
    if times:
        words = [AlignmentItem(text, start, duration=end - start) for text, start, end in times]
        supervision = supervision.with_alignment("word", words)
    cut = recording.to_cut()
    cut.supervisions = [supervision]
    return cut
