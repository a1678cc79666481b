import asyncio
import datetime
import json

import pytest

from rayapp.errors import UserError
from serve.config import RetentionConfig
from serve.retention import Archive, new_key, open_kept

TOLD = {"model": "medical-asr:3", "text": "Take losartan."}


@pytest.fixture
def settings(tmp_path):
    return RetentionConfig(folder=tmp_path / "audit", public_key=new_key(tmp_path / "audit.pem"), keep_days=2)


def test_what_is_kept_can_be_read_with_the_private_key_alone(settings, tmp_path):
    Archive(settings).keep("../../note", TOLD, b"RIFF losartan\nwave")
    (file,) = (path for path in settings.folder.rglob("*") if path.is_file())
    assert file.stat().st_mode & 0o077 == 0
    assert not [word for word in (b"losartan", b"RIFF", b"note") if word in file.read_bytes()]
    Archive(settings).keep("../../note", {"text": "again"}, b"again")
    assert open_kept(settings.folder, "../../note", tmp_path / "audit.pem") == [
        ({"request_id": "../../note", **TOLD}, b"RIFF losartan\nwave"),
        ({"request_id": "../../note", "text": "again"}, b"again"),
    ]
    new_key(tmp_path / "other.pem")
    with pytest.raises(UserError, match="was sealed for another key"):
        open_kept(settings.folder, "../../note", tmp_path / "other.pem")
    with pytest.raises(UserError, match="is no private key"):
        open_kept(settings.folder, "../../note", settings.public_key)
    with pytest.raises(UserError, match="holds nothing of the request abc"):
        open_kept(settings.folder, "abc", tmp_path / "audit.pem")


def test_days_that_are_old_enough_are_removed(settings):
    today = datetime.datetime.now(datetime.UTC).date()
    for days in (1, 2, 3, 40):
        (settings.folder / (today - datetime.timedelta(days=days)).isoformat()).mkdir(parents=True)
    (settings.folder / "notes").mkdir()
    kept = sorted([(today - datetime.timedelta(days=days)).isoformat() for days in (1, 2)] + ["notes"])

    async def main():
        clearing = [asyncio.create_task(Archive(settings).clear()) for _ in range(2)]
        async with asyncio.timeout(20):
            while sorted(path.name for path in settings.folder.iterdir()) != kept:
                await asyncio.sleep(0.01)
        for task in clearing:
            task.cancel()

    asyncio.run(main())


def test_a_key_is_never_overwritten_and_one_that_is_none_is_said(settings, tmp_path):
    with pytest.raises(UserError, match="is there already"):
        new_key(tmp_path / "audit.pem")
    with pytest.raises(UserError, match="is no public key"):
        Archive(settings.model_copy(update={"public_key": tmp_path / "audit.pem"}))
    assert (tmp_path / "audit.pem").stat().st_mode & 0o077 == 0


def test_a_server_keeps_what_it_was_told_to_and_nothing_else(settings, tmp_path, spoken):
    from pathlib import Path

    import httpx

    from rayapp.asr.recogniser import Heard
    from rayapp.audio.codec import encode_flac
    from serve.api import build_api
    from serve.config import ServeConfig
    from serve.metrics import IngressMetrics
    from serve.models import Catalogue

    class Listener:
        async def transcribe(self, *_):
            return Heard("Take losartan.")

    config = ServeConfig(
        models=[{"name": "medical-asr", "source": "model.nemo"}], allow_unreleased=True, retention=settings
    )
    audio = encode_flac(spoken().audio)

    async def main():
        transport = httpx.ASGITransport(build_api(config, Catalogue(config, Path()), Listener(), IngressMetrics()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for name, stream in (("whole", "false"), ("stream", "true"), ("bad", "false")):
                await client.post(
                    "/v1/audio/transcriptions",
                    files={"file": b"no" if name == "bad" else audio},
                    data={"model": "medical-asr", "stream": stream, "keywords[]": "losartan"},
                    headers={"x-request-id": name},
                )

    asyncio.run(main())
    for name in ("whole", "stream"):
        ((told, sent),) = open_kept(settings.folder, name, tmp_path / "audit.pem")
        assert (told["text"], told["model"], told["keywords"]) == ("Take losartan.", "medical-asr", ["losartan"])
        assert sent == audio
        json.dumps(told)
    with pytest.raises(UserError, match="holds nothing"):
        open_kept(settings.folder, "bad", tmp_path / "audit.pem")
