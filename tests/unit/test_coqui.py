"""The Coqui engine, on small models with random weights that the tests make and Coqui itself saves and loads."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.speech.coqui.config import CoquiConfig
from pipelines.speech.coqui.engine import CoquiEngine
from pipelines.speech.coqui.files import resolve
from pipelines.speech.coqui.reading import token_ids
from pipelines.speech.coqui.speakers import split_speakers
from pipelines.speech.coqui.text import parts_of
from pipelines.speech.engine import Line, Speech
from rayapp.errors import RejectedError, UserError
from rayapp.records import SAMPLE_RATE_HZ, Voice

pytestmark = pytest.mark.slow
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SENTENCES = ("please start losartan today", "no", "the patient takes warfarin and feels well", "thank you")


def save_model(folder: Path, model: object) -> Path:
    from trainer.io import save_model

    model.config.save_json(folder / "config.json")
    save_model(model.config, model, folder / "model_file.pth", current_step=1, epoch=1)
    return folder


def vits(folder: Path, args: dict[str, object], **settings: object) -> object:
    """A small VITS with random weights in every layer: those that start at zero would hide what they do."""
    import torch
    from TTS.config.shared_configs import BaseAudioConfig
    from TTS.tts.configs.shared_configs import CharactersConfig
    from TTS.tts.configs.vits_config import VitsArgs, VitsConfig
    from TTS.tts.models.vits import Vits

    small = {"hidden_channels": 16, "hidden_channels_ffn_text_encoder": 32, "num_layers_text_encoder": 2}
    small |= {"num_layers_flow": 2, "num_layers_posterior_encoder": 1, "upsample_initial_channel_decoder": 32}
    characters = CharactersConfig(
        characters_class="TTS.tts.models.vits.VitsCharacters",
        pad="_",
        characters=LETTERS,
        punctuations=" .,!?'-",
        phonemes="ɑɔəɛɜɪʊʌæɐɹɾɡŋθðʃʒˈˌːᵻɚ" if settings.get("use_phonemes") else "",
    )
    torch.manual_seed(1)
    model = Vits(
        VitsConfig(
            model_args=VitsArgs(init_discriminator=False, **small, **args),
            audio=BaseAudioConfig(sample_rate=22050, hop_length=256, win_length=1024, fft_size=1024, num_mels=80),
            text_cleaner="basic_cleaners",
            characters=characters,
            **settings,
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
        model.waveform_decoder.conv_post.weight.mul_(100)  # as loud as speech
    return model


@pytest.fixture(scope="module")
def two_speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VITS that reads letters, of two speakers; its config names their file as it lay where it was trained."""
    from TTS.tts.utils.speakers import SpeakerManager

    folder = tmp_path_factory.mktemp("vits")
    manager = SpeakerManager()
    manager.name_to_id = {"anna": 0, "ben\n": 1}
    manager.save_ids_to_file(folder / "speakers.pth")
    model = vits(folder, {"use_speaker_embedding": True, "speakers_file": str(folder / "speakers.pth")})
    model.config.model_args.speakers_file = "/where/it/was/trained/speakers.pth"
    return save_model(folder, model)


@pytest.fixture(scope="module")
def engine(two_speakers: Path) -> CoquiEngine:
    return CoquiEngine(CoquiConfig(model=str(two_speakers), batch_size=4))


@pytest.fixture(scope="module")
def reads_phonemes(tmp_path_factory: pytest.TempPathFactory) -> CoquiEngine:
    """A VITS of one speaker whose config asks for espeak's phonemes."""
    from pipelines.speech.coqui.reading import use_bundled_espeak

    use_bundled_espeak()
    folder = tmp_path_factory.mktemp("phonemes")
    model = vits(folder, {}, use_phonemes=True, phonemizer="espeak", phoneme_language="en-us")
    return CoquiEngine(CoquiConfig(model=str(save_model(folder, model))))


def line(text: str, speaker: str = "anna", rate_wpm: int = 170) -> Line:
    return Line(text, Voice("coqui", speaker, accent="en", rate_wpm=rate_wpm))


def said(engine: CoquiEngine, *lines: Line) -> list[np.ndarray]:
    outcomes = engine.speak(lines)
    assert all(isinstance(outcome, Speech) for outcome in outcomes), outcomes
    return [outcome.audio for outcome in outcomes]


def refused(engine: CoquiEngine, text: str, speaker: str = "anna") -> str:
    (outcome,) = engine.speak([line(text, speaker)])
    assert isinstance(outcome, RejectedError)
    return str(outcome)


def test_a_line_becomes_mono_speech_at_16_khz(engine):
    (audio,) = said(engine, line(SENTENCES[0]))
    frames = len(audio) * engine.model.rate_hz / SAMPLE_RATE_HZ / 256
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert frames == pytest.approx(round(frames), abs=0.02)  # whole frames of the model, at another rate
    assert 0.01 < np.abs(audio).max() <= 1.05  # resampling may overshoot a little


def test_what_is_said_of_a_line_does_not_depend_on_the_others_of_its_batch(engine):
    together = said(engine, *map(line, SENTENCES))
    for text, audio in zip(SENTENCES, together, strict=True):
        (alone,) = said(engine, line(text))
        assert len(alone) == len(audio)
        np.testing.assert_allclose(audio, alone, atol=1e-5)


def test_speakers_and_texts_sound_different(engine):
    anna, ben, other = said(engine, line("good morning"), line("good morning", "ben"), line("good evening"))
    assert not np.array_equal(anna[:1000], ben[:1000])
    assert not np.array_equal(anna[:1000], other[:1000])


def test_the_same_line_sounds_the_same_in_another_process(engine):
    script = (
        "import sys, hashlib; from pipelines.speech.coqui.engine import *\n"
        "from pipelines.speech.coqui.config import *\n"
        "from pipelines.speech.engine import Line; from rayapp.records import Voice\n"
        "engine = CoquiEngine(CoquiConfig(model=sys.argv[1]))\n"
        "(speech,) = engine.speak([Line('good morning', Voice('coqui', 'ben', accent='en'))])\n"
        "print(hashlib.sha256(speech.audio.tobytes()).hexdigest())"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", script, engine.config.model], capture_output=True, text=True, check=True
    )
    assert fresh.stdout.split()[-1] == hashlib.sha256(said(engine, line("good morning", "ben"))[0]).hexdigest()


def test_a_faster_voice_takes_less_time(engine):
    slow, fast = said(engine, line(SENTENCES[2], rate_wpm=130), line(SENTENCES[2], rate_wpm=260))
    assert len(fast) < 0.75 * len(slow)


def test_a_long_text_is_said_in_parts_with_a_pause_between(two_speakers):
    short = CoquiEngine(CoquiConfig(model=str(two_speakers), split_characters=40))
    text = "the pain started in the morning. it went away after lunch. no fever."
    assert parts_of(text, 40, lambda t: short.model.sentences(t, "en")) == [
        "the pain started in the morning.", "it went away after lunch. no fever.",
    ]  # fmt: skip
    (audio,) = said(short, line(text))
    silent = np.abs(audio) < 1e-5
    longest = max(len(run) for run in "".join("s" if s else "." for s in silent).split("."))
    assert 0.15 < longest / SAMPLE_RATE_HZ < 0.25


def test_ipa_is_not_cut_apart():
    text = "first clause here, then /ləˈsɑː. tən, x/ and a good many more words after it"
    parts = parts_of(text, 30, lambda whole: [whole])
    assert any("/ləˈsɑː. tən, x/" in part for part in parts)
    assert " ".join(parts) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("...", "nothing to say"),
        ("take 5 today", "no letters for '5'"),
        ("氯沙坦", "no letters for '氯沙坦'"),
        ("take /ləˈsɑːtən/ daily", "reads letters, not IPA"),
    ],
)
def test_a_line_that_cannot_be_said_is_rejected_with_its_reason_and_the_others_are_spoken(engine, text, reason):
    before, rejected, after = engine.speak([line("yes"), line(text), line("no")])
    assert isinstance(before, Speech)
    assert isinstance(after, Speech)
    assert reason in str(rejected)


def test_an_unknown_speaker_is_named_with_those_that_there_are(engine):
    engine.check_voices(["anna", "ben"])
    with pytest.raises(UserError, match="no speaker zoe; it has anna, ben"):
        engine.check_voices(["anna", "zoe"])


def test_texts_that_the_model_cannot_pronounce_are_named(engine):
    engine.check_pronounceable(["losartan"], "en")
    with pytest.raises(UserError, match=r"cannot pronounce '5-HT', '氯沙坦'"):
        engine.check_pronounceable(["losartan", "5-HT", "氯沙坦"], "en")


def test_silence_and_broken_samples_are_rejected(two_speakers):
    import torch

    broken = CoquiEngine(CoquiConfig(model=str(two_speakers)))
    last = broken.model.model.waveform_decoder.conv_post
    with torch.no_grad():
        last.weight.mul_(0)
        assert "silence" in refused(broken, "hello")
        last.weight.fill_(float("nan"))
        assert "NaN" in refused(broken, "hello")


def test_ipa_reaches_a_model_that_reads_phonemes(reads_phonemes):
    from pipelines.speech import espeak

    ipa = espeak.ipa("losartan", "en-us").strip()
    texts = ("take losartan, daily", f"take /{ipa}/, daily", "take /kəd/, daily")
    by_letters, by_ipa, other = (token_ids(reads_phonemes.model.model.tokenizer, text, "en-us") for text in texts)
    assert by_ipa == by_letters != other
    (audio,) = said(reads_phonemes, line(texts[1], "default"))
    assert np.abs(audio).max() > 0.01


def test_punctuation_before_a_text_does_not_swallow_it(reads_phonemes):
    tokenizer = reads_phonemes.model.model.tokenizer
    assert len(token_ids(tokenizer, "… losartan", "en-us")) >= len(token_ids(tokenizer, "losartan", "en-us"))


def test_ipa_that_the_model_never_learnt_is_named(reads_phonemes):
    assert "'ʘa' has ʘ, which the model does not know" in refused(reads_phonemes, "say /ʘa/", "default")


def test_speakers_are_dealt_by_name_so_that_newcomers_move_nobody(two_speakers, tmp_path):
    from TTS.tts.utils.speakers import SpeakerManager

    def dealt(count: int) -> dict[str, tuple[str, ...]]:
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "config.json").write_bytes((two_speakers / "config.json").read_bytes())
        manager = SpeakerManager()
        manager.name_to_id = {f"p{number}": number for number in range(count)}
        manager.save_ids_to_file(folder / "speakers.pth")
        return split_speakers(CoquiConfig(model=str(folder)))

    few, many = dealt(60), dealt(200)
    assert all(set(few[side]) <= set(many[side]) for side in few)
    assert sum(map(len, many.values())) == len({name for side in many.values() for name in side}) == 200
    assert [len(many[side]) for side in ("train", "validation", "test")] == pytest.approx([140, 20, 40], abs=15)


def test_named_speakers_are_never_shared(two_speakers):
    with pytest.raises(UserError, match=r"2 speaker\(s\) .* too few to deal"):
        split_speakers(CoquiConfig(model=str(two_speakers)))
    named = CoquiConfig(model=str(two_speakers), train_speakers=("anna",), test_speakers=("ben",))
    assert split_speakers(named) == {"train": ("anna",), "validation": (), "test": ("ben",)}
    with pytest.raises(ValueError, match="test_speakers shares anna with train_speakers"):
        CoquiConfig(train_speakers=("anna",), test_speakers=("anna",))


def test_a_folder_without_a_config_says_what_belongs_there(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        CoquiEngine(CoquiConfig(model=str(tmp_path))).check_voices(["anna"])


def test_a_name_that_is_not_in_the_catalogue_gets_the_nearest_ones():
    with pytest.raises(
        UserError, match=r"neither a path here nor in the catalogue; near to it are tts_models/en/vctk/vits"
    ):
        CoquiEngine(CoquiConfig(model="tts_models/en/vctk/vitz"))


def test_a_licence_is_not_asked_for_on_standard_input(monkeypatch, tmp_path):
    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    monkeypatch.delenv("COQUI_TOS_AGREED", raising=False)
    with pytest.raises(UserError, match=r"licence \(CPML\).*COQUI_TOS_AGREED=1"):
        resolve(CoquiConfig(model="tts_models/multilingual/multi-dataset/xtts_v2"))


@pytest.fixture
def mirror(two_speakers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CoquiConfig]:
    """A web server with the model, and a catalogue that names it; and one that is not there."""
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "small.zip", "w") as archive:
        for file in two_speakers.iterdir():
            archive.write(file, f"small/{file.name}")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    models = {
        name: {"github_rls_url": f"{address}/{name}.zip", "license": "MIT", "default_vocoder": None}
        for name in ("small", "gone")
    }
    catalogue = tmp_path / "models.json"
    catalogue.write_text(json.dumps({"tts_models": {"en": {"test": models}}}))
    monkeypatch.setenv("TTS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield CoquiConfig(model="tts_models/en/test/small", models_file=catalogue)
    server.shutdown()
    server.server_close()


def test_a_model_by_name_is_downloaded_once_and_loaded_by_path(mirror, engine, tmp_path):
    resolved = resolve(mirror)
    assert Path(resolved.model).is_relative_to(tmp_path / "home" / "tts")
    (tmp_path / "served" / "small.zip").unlink()
    assert resolve(mirror) == resolved  # nothing is fetched a second time
    (audio,) = said(CoquiEngine(resolved), line("good morning", "ben"))
    np.testing.assert_array_equal(audio, said(engine, line("good morning", "ben"))[0])


def test_a_download_that_fails_leaves_nothing_behind(mirror, tmp_path):
    with pytest.raises(UserError, match=r"tts_models/en/test/gone cannot be downloaded"):
        resolve(mirror.model_copy(update={"model": "tts_models/en/test/gone"}))
    assert not (tmp_path / "home" / "tts" / "tts_models--en--test--gone").exists()


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> CoquiConfig:
    """A VITS with a speaker encoder, in which a voice is what the encoder hears in a recording."""
    from trainer.io import save_model as save_weights
    from TTS.config.shared_configs import BaseAudioConfig
    from TTS.encoder.configs.speaker_encoder_config import SpeakerEncoderConfig
    from TTS.encoder.utils.generic_utils import setup_encoder_model

    folder = tmp_path_factory.mktemp("clones")
    size = {"model_name": "lstm", "input_dim": 40, "proj_dim": 8, "lstm_dim": 8, "num_lstm_layers": 1}
    encoder_config = SpeakerEncoderConfig(
        model_params=size,
        audio=BaseAudioConfig(sample_rate=16000, num_mels=40, fft_size=512, win_length=400, hop_length=160),
        num_loader_workers=0,
        num_classes_in_batch=2,
        num_utter_per_class=2,
    )
    encoder_config.save_json(folder / "config_se.json")
    encoder = setup_encoder_model(encoder_config)
    save_weights(encoder_config, encoder, folder / "model_se.pth", current_step=1, epoch=1)
    files = {
        "speaker_encoder_model_path": str(folder / "model_se.pth"),
        "speaker_encoder_config_path": str(folder / "config_se.json"),
    }
    save_model(folder, vits(folder, {"use_d_vector_file": True, "d_vector_dim": 8, **files}))
    recordings = folder / "recordings"
    recordings.mkdir()
    rng = np.random.default_rng(1)
    for name, hz in (("Zoë Low", 110), ("Max High", 260)):
        tone = 0.3 * np.sin(2 * np.pi * hz * np.arange(32000) / 16000) + 0.01 * rng.standard_normal(32000)
        soundfile.write(recordings / f"{name}.wav", tone, 16000)
    return CoquiConfig(model=str(folder), reference_clips=recordings)


def test_voices_are_cloned_from_recordings(clones):
    engine = CoquiEngine(clones)
    engine.check_voices(["Zoë Low", "Max High"])
    low, high, again = said(engine, line("hello", "Zoë Low"), line("hello", "Max High"), line("hello", "Zoë Low"))
    np.testing.assert_allclose(low, again, atol=1e-6)
    (anew,) = said(CoquiEngine(clones), line("hello", "Max High"))
    assert len(anew) == len(high)
    np.testing.assert_allclose(anew, high, atol=1e-5)


def test_a_model_that_cannot_clone_says_which_can(two_speakers, clones):
    with pytest.raises(UserError, match=r"cannot clone voices.*xtts_v2"):
        split_speakers(CoquiConfig(model=str(two_speakers), reference_clips=clones.reference_clips))


def test_a_recording_that_cannot_be_read_is_named(clones, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(UserError, match=r"broken\.wav cannot be read"):
        split_speakers(clones.model_copy(update={"reference_clips": tmp_path}))


def test_a_spectrogram_model_speaks_one_line_after_the_other(tmp_path):
    import torch
    from TTS.config.shared_configs import BaseAudioConfig
    from TTS.tts.configs.glow_tts_config import GlowTTSConfig
    from TTS.tts.models.glow_tts import GlowTTS

    torch.manual_seed(1)
    encoder = {"kernel_size": 3, "dropout_p": 0.1, "num_layers": 1, "num_heads": 2, "hidden_channels_ffn": 16}
    model = GlowTTS(
        GlowTTSConfig(
            hidden_channels_enc=16, hidden_channels_dec=16, hidden_channels_dp=16, num_flow_blocks_dec=1,
            encoder_params=encoder, inference_noise_scale=0.5, text_cleaner="basic_cleaners",
            audio=BaseAudioConfig(do_trim_silence=False, griffin_lim_iters=10),
        )
    )  # fmt: skip
    config = CoquiConfig(model=str(save_model(tmp_path, model)))
    engine = CoquiEngine(config)
    first, rejected, _ = engine.speak([line("hello", "default"), line("say /hə/", "default"), line("bye", "default")])
    assert "takes no IPA" in str(rejected)
    (again,) = said(CoquiEngine(config), line("hello", "default"))
    np.testing.assert_array_equal(first.audio, again)


def test_a_run_speaks_with_its_speakers_and_keeps_the_other_synthesiser_for_its_test(ray, two_speakers, tmp_path):
    from pipelines.config import SynthesisConfig
    from pipelines.lexicon.config import LexiconConfig
    from pipelines.manifests.config import ManifestsConfig, SizesConfig
    from pipelines.speech.config import SpeechConfig
    from pipelines.synthesize import synthesize
    from rayapp.manifest import Manifest

    coqui = CoquiConfig(model=str(two_speakers), train_speakers=("anna",), test_speakers=("ben",))
    few = {"train_everyday": 6, "test_general": 4, "test_other_synthesiser": 4}
    sizes = SizesConfig.model_validate(dict.fromkeys(SizesConfig.model_fields, 0) | few)
    config = SynthesisConfig(
        output=str(tmp_path / "speech"),
        lexicon=LexiconConfig(take=2),
        speech=SpeechConfig(engine="coqui", coqui=coqui),
        manifests=ManifestsConfig(sizes=sizes),
    )
    synthesize(config)
    manifest = Manifest(config.output)
    spoken = {
        split: {(row["engine"], row["voice"].partition("+")[0] if row["engine"] == "espeak" else row["voice"])
                for row in manifest.read(split, ["engine", "voice"]).to_pylist()}
        for split in manifest.splits
    }  # fmt: skip
    assert spoken["train"] == {("coqui", "anna")}
    assert spoken["test_general"] == {("coqui", "ben")}
    assert {engine for engine, _ in spoken["test_other_synthesiser"]} == {"espeak"}
