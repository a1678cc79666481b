import asyncio
import gc
import json
import shutil
import weakref

import numpy as np
import pytest

from rayapp.asr.whisper import WhisperRecogniser
from rayapp.errors import UserError
from rayapp.registry import CHALLENGER, CHAMPION, Registry
from serve.config import ServeConfig
from serve.metrics import RecogniserMetrics
from serve.models import Catalogue
from serve.recogniser import RecogniserReplica
from serve.run import checked
from serve.shelf import Shelf

AUDIO = np.linspace(-1, 1, 16_000, dtype=np.float32)


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(folder / "home")
    for version in ("1", "2"):
        (folder / f"{version}.nemo").write_text(version)
        assert registry.publish("medical-asr", folder / f"{version}.nemo", "", {}, [], version, folder) == version
    return registry


@pytest.fixture(autouse=True)
def _own_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYAPP_CACHE", str(tmp_path / "disk"))


@pytest.fixture
def registry(two_versions):
    """Two versions of a model, of which the first is the champion."""
    two_versions.promote("medical-asr", "1", CHAMPION)
    return two_versions


@pytest.fixture
def catalogue(registry):
    return Catalogue(ServeConfig(), registry.home)


def served(catalogue):
    return [model.id for model in catalogue.current.values()]


def test_what_an_alias_points_to_now_is_served_after_it_was_prepared_and_so_back(catalogue, registry):
    prepared = []

    async def prepare(model):
        assert model.id not in served(catalogue)
        prepared.append(model.id)

    async def rounds():
        told = []
        for champion in "1222111":
            registry.promote("medical-asr", champion, CHAMPION)
            await catalogue.update(prepare)
            told.append(catalogue.current["medical-asr"].version)
        return told

    assert asyncio.run(rounds()) == list("1122211")
    assert prepared == ["medical-asr:2", "medical-asr:1"]


def test_a_version_that_cannot_be_loaded_is_never_served_and_costs_no_other_model(registry):
    two = [{"name": "medical-asr"}, {"name": "other", "source": "medical-asr@challenger"}]
    registry.promote("medical-asr", "1", CHALLENGER)
    catalogue, tries, failures = Catalogue(ServeConfig(models=two), registry.home), [], []

    async def prepare(model):
        tries.append(model.id)
        if model.name == "medical-asr":
            raise UserError("no model")

    async def rounds():
        for alias in (CHAMPION, CHALLENGER):
            registry.promote("medical-asr", "2", alias)
        for _ in range(3):
            await catalogue.update(prepare, lambda: failures.append(1))
        assert served(catalogue) == ["medical-asr:1", "other:2"]
        assert tries == ["medical-asr:2", "other:2"]
        catalogue._broken.clear()
        await catalogue.update(prepare, lambda: failures.append(1))
        assert tries.count("medical-asr:2") == len(failures) == 2

    asyncio.run(rounds())


def test_an_alias_that_is_gone_leaves_its_model_as_it_is(registry):
    two = [{"name": "trial", "source": "medical-asr@challenger"}, {"name": "medical-asr"}]
    registry.promote("medical-asr", "1", CHALLENGER)
    catalogue, failures = Catalogue(ServeConfig(models=two), registry.home), []

    async def prepare(_model):
        pass

    async def rounds():
        registry.client.delete_registered_model_alias("medical-asr", CHALLENGER)
        registry.promote("medical-asr", "2", CHAMPION)
        for _ in range(2):
            await catalogue.update(prepare, lambda: failures.append(1))

    asyncio.run(rounds())
    assert served(catalogue) == ["trial:1", "medical-asr:2"]
    assert len(failures) == 2


def test_while_the_registry_is_away_what_it_told_last_is_served(registry, monkeypatch, tmp_path):
    told = Catalogue(ServeConfig(), registry.home)
    assert told.fetch("medical-asr:1").read_text() == "1"

    def away(*_):
        raise ConnectionError

    monkeypatch.setattr(Registry, "version_of", away)
    monkeypatch.setattr(Registry, "fetch", away)
    anew = Catalogue(ServeConfig(), registry.home)
    assert served(anew) == ["medical-asr:1"]
    assert anew.fetch("medical-asr:1").read_text() == "1"
    monkeypatch.setenv("RAYAPP_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ConnectionError):
        Catalogue(ServeConfig(), registry.home)


def test_a_version_is_fetched_by_what_it_is_called(catalogue):
    assert catalogue.fetch("medical-asr:2").read_text() == "2"


def test_models_are_copied_to_the_machines_own_disk_whole_and_once(registry, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    models = [{"name": "medical-asr"}, {"name": "whisper", "source": str(folder)}]
    catalogue = Catalogue(ServeConfig(models=models, allow_unreleased=True, copy_models=True), registry.home)
    copies = [catalogue.fetch(model) for model in served(catalogue)]
    assert all(copy.is_relative_to(tmp_path / "disk") for copy in copies)
    assert copies[0].read_text() == "1"
    assert (copies[1].name, (copies[1] / "config.json").is_file()) == ("shared", True)
    assert [catalogue.fetch(model) for model in served(catalogue)] == copies
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "d_model": 8}))
    assert catalogue.fetch("whisper") != copies[1]


def test_a_model_that_the_registry_has_not_is_said_at_once(registry):
    with pytest.raises(UserError, match=r"has no model other@champion; known: .*medical-asr@champion"):
        checked(ServeConfig(models=[{"name": "other"}]), registry.home)
    registry.promote("medical-asr", "1", CHALLENGER)
    gone = ServeConfig(models=[{"name": "trial", "source": "medical-asr@challenger"}])
    checked(gone, registry.home)
    registry.client.delete_registered_model_alias("medical-asr", CHALLENGER)
    with pytest.raises(UserError, match="has no model medical-asr@challenger"):
        checked(gone, registry.home)
    assert served(Catalogue(gone, registry.home)) == ["trial:1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": [{"name": "a"}, {"name": "a", "source": "b@c"}]}, "has the name a twice"),
        ({"models": [{"name": "a", "source": "openai/whisper-tiny"}]}, "set allow_unreleased"),
        ({"models": [{"name": "../a"}]}, "pattern"),
        ({"models": []}, "at least 1"),
    ],
)
def test_models_that_cannot_be_served_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ServeConfig(**settings)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A Whisper, and two adapters to it that hear differently."""
    import torch

    from rayapp.asr.tiny_whisper import tiny_whisper

    folder = tmp_path_factory.mktemp("models")
    tiny_whisper(folder / "base", ["start losartan today"], seconds=2)
    for number in (1, 2):
        recogniser = WhisperRecogniser.load(folder / "base", language="en")
        recogniser.add_adapter("lora", rank=4)
        torch.manual_seed(number)
        for name, parameter in recogniser.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=1.0)
        recogniser.save_adapter(folder / f"ward-{number}")
    return folder


def test_a_model_that_has_to_go_leaves_no_memory_behind(folders, tmp_path):
    async def on_device(work):
        return work()

    async def main():
        shelf = Shelf("cpu", on_device, RecogniserMetrics())
        first = weakref.ref((await shelf.open("first", folders / "base")).recogniser.model)
        gc.freeze()  # as when NeMo is imported
        gc.disable()
        try:
            await shelf.open("second", shutil.copytree(folders / "base", tmp_path / "other"))
        finally:
            gc.enable()
        return first()

    assert asyncio.run(main()) is None


def test_adapters_share_their_base_and_each_is_heard_by_itself(folders):
    async def on_device(work):
        return work()

    def alone(name):
        return WhisperRecogniser.load(folders / name).transcribe([AUDIO])[0].text

    async def main():
        shelf = Shelf("cpu", on_device, RecogniserMetrics())
        models = {name: await shelf.open(name, folders / name) for name in ("ward-1", "base", "ward-2")}
        heard = {name: model([AUDIO], ())[0].text for name, model in models.items()}
        recogniser = models["base"].recogniser
        assert all(model.recogniser is recogniser for model in models.values())
        assert await shelf.open("ward-1", folders / "ward-1") is models["ward-1"]
        del models["ward-1"]
        models["again"] = await shelf.open("again", folders / "ward-1")
        assert recogniser.adapters == ("ward-2", "again")
        return heard | {"again": models["again"]([AUDIO], ())[0].text}

    heard = asyncio.run(main())
    assert heard == {name: alone(name) for name in ("ward-1", "base", "ward-2")} | {"again": alone("ward-1")}
    assert len(set(heard.values())) == 3


def replica(load):
    """A recogniser's process without Ray Serve around it."""
    made = object.__new__(RecogniserReplica)
    made._model = load
    return made


def test_who_hangs_up_while_a_model_is_loaded_does_not_stop_that():
    loaded = []

    async def main():
        go = asyncio.Event()

        async def load(model_id):
            await go.wait()
            loaded.append(model_id)

        asking = asyncio.create_task(replica(load)._loaded("a:1"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        go.set()
        while not loaded:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert loaded == ["a:1"]


def test_a_copy_starts_with_what_can_be_loaded_where_a_version_cannot(registry):
    registry.promote("medical-asr", "2", CHAMPION)
    catalogue, loaded = Catalogue(ServeConfig(), registry.home), []

    async def load(model_id):
        if model_id == "medical-asr:2":
            raise UserError("no model")
        loaded.append(model_id)

    def start():
        asyncio.run(replica(load)._prepare_all([*catalogue.current.values()], catalogue))

    with pytest.raises(UserError, match="no model"):
        start()
    catalogue.note_loaded("medical-asr:1")
    start()
    assert loaded == ["medical-asr:1"]
