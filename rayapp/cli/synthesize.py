"""`rayapp synthesize`: from a lexicon to a manifest."""

from __future__ import annotations

from rayapp.cli.options import Address, AsJson, ConfigFile, Overrides
from rayapp.cli.output import command_output


def command(
    config_file: ConfigFile, overrides: Overrides = None, address: Address = None, as_json: AsJson = False
) -> None:
    """Make speech: write sentences around the terms of a lexicon, speak them, add rooms and noise.

    The result is a manifest: a folder of parquet shards that `datasets.load_dataset` reads too. An
    interrupted run goes on where it stopped.

    Example: `rayapp synthesize configs/synthesize.yaml --set manifests.sizes.train_per_term=100`
    """
    with command_output(as_json) as output:
        from pipelines.config import SynthesisConfig
        from pipelines.lexicon.terms import open_lexicon
        from rayapp.config import load_config

        config = load_config(SynthesisConfig, config_file, overrides or [])
        open_lexicon(config.lexicon)

        from pipelines.synthesize import prepared, run_key, synthesize
        from rayapp.manifest import Manifest, read_rejections
        from rayapp.ray_session import ray_session
        from rayapp.storage import key_of, name_of

        if key_of(config.output) != run_key(config):
            prepared(config)  # what a run would refuse is said before Ray starts
        with output.step("synthesize", f"making {name_of(config.output)}") as progress, ray_session(address):
            made = synthesize(config, progress)
        manifest = Manifest(config.output)
        utterances = {split: manifest.count(split) for split in manifest.splits}
        hours = {split: round(manifest.hours(split), 3) for split in manifest.splits}
        rejections = read_rejections(manifest)
        stages = made.stages if made else {}
        output.result(
            {
                "manifest": manifest.location,
                "utterances": utterances,
                "hours": hours,
                "total_utterances": sum(utterances.values()),
                "total_hours": round(sum(hours.values()), 3),
                "rejections": rejections,
                "short": dict(made.short) if made else {},
                "rounds": made.rounds if made else 0,
                "resumed": made.resumed if made else 0,
                "made": made is not None,
                "busy_seconds_by_stage": {name: round(stage.busy_seconds, 1) for name, stage in stages.items()},
                "seconds_by_step": output.seconds_by_step,
            },
            *(f"{split}: {count} utterances, {hours[split]} h" for split, count in utterances.items()),
            *(f"rejected {count}: {reason}" for reason, count in rejections.items()),
            *(f"{count} short: {term or 'everyday speech'}" for term, count in (made.short if made else {}).items()),
            "" if made else "everything was made before: nothing was done",
        )
