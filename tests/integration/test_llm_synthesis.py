"""From a language model's sentences to a manifest: an OpenAI-compatible server writes, on loopback."""

import json
import random
import re

import pytest

from pipelines.config import SynthesisConfig
from pipelines.lexicon.config import LexiconConfig
from pipelines.manifests.config import ManifestsConfig, SizesConfig
from pipelines.synthesize import prepared, synthesize
from pipelines.transcripts.config import ChecksConfig, OpenAIConfig, TranscriptsConfig
from pipelines.transcripts.splits import side_of_split, side_of_text
from rayapp.errors import UserError
from rayapp.manifest import Manifest, read_rejections

pytestmark = pytest.mark.slow


def message(content):
    return 200, {}, {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}


def writer(body, tries):
    """Writes as language models do: mostly well, sometimes about something else, sometimes nothing at all."""
    chance = random.Random(tries)
    if tries % 9 == 0:
        return 500, {"retry-after-ms": "1"}, {"error": {"message": "overloaded"}}
    if tries % 5 == 0:
        return message("I am sorry, I cannot help with that.")
    asked = body["messages"][-1]["content"]
    term = (re.search(r'the term "(.+?)"', asked) or ["", "coffee"])[1]
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
    sentences = [
        f"On {chance.choice(days)} at {chance.randint(1, 12)}:30 we gave {term} to room {chance.randint(1, 99)}."
        for _ in range(6)
    ]
    return message(json.dumps({"sentences": ["Nothing to do with it.", *sentences]}))


@pytest.fixture
def config(serve, tmp_path):
    sizes = SizesConfig.model_validate(
        dict.fromkeys(SizesConfig.model_fields, 0)
        | {"train_per_term": 8, "validation": 6, "test": 10, "test_general": 6}
    )
    return SynthesisConfig(
        output=str(tmp_path / "speech"),
        lexicon=LexiconConfig(take=4),
        transcripts=TranscriptsConfig(
            generator="openai",
            openai=OpenAIConfig(base_url=serve(writer).url, model="small", retries=2),
            checks=ChecksConfig(language=True, max_near_duplicates=0.95),
            rounds=4,
        ),
        manifests=ManifestsConfig(sizes=sizes, max_rejected_share=0.6),
    )


def test_what_a_language_model_writes_is_checked_spoken_and_topped_up(ray, config):
    result = synthesize(config)
    manifest = Manifest(config.output)
    rows = [row for split in manifest.splits for row in manifest.read(split).to_pylist()]
    assert result.rounds > 1
    assert len(rows) == result.kept
    assert len(rows) >= 0.9 * prepared(config)[1].slots
    for row in rows:
        assert row["generator"] in ("openai:dictation_en", "openai:everyday_en")
        assert all(term.casefold() in row["text"].casefold() for term in row["terms"])
        assert side_of_text(row["text"]) == side_of_split(row["split"])
        assert not re.search(r"\d", row["spoken_text"])
        assert len(row["words"]) == len(row["text"].split())
    assert len({row["text"] for row in rows}) == len(rows)
    reasons = " ".join(read_rejections(manifest))
    assert "the answer holds no sentence" in reasons


def test_a_model_that_the_server_does_not_have_is_refused_before_anything_is_made(config):
    openai = config.transcripts.openai.model_copy(update={"model": "huge"})
    wrong = config.model_copy(update={"transcripts": config.transcripts.model_copy(update={"openai": openai})})
    with pytest.raises(UserError, match=r"huge.*large, small|huge.*small, large"):
        prepared(wrong)
