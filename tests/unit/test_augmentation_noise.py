"""Backgrounds of every kind: synthesised, spoken and recorded."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipelines.augmentation.backgrounds import BACKGROUNDS
from pipelines.augmentation.chain import check
from pipelines.augmentation.config import AugmentationConfig, NoiseConfig, WeightsConfig
from pipelines.augmentation.loop import looped
from pipelines.augmentation.noise import AddNoise
from pipelines.augmentation.recordings import Recordings
from pipelines.speech.espeak import speak
from rayapp.audio.codec import encode_flac
from rayapp.audio.levels import active_level, rms
from rayapp.errors import RejectedError, UserError
from rayapp.records import SAMPLE_RATE_HZ
from rayapp.stage import run_stages
from rayapp.storage import published_folder, write_file

SILENT = dict.fromkeys(WeightsConfig.model_fields, 0.0)


def talk(side, rng):
    """Somebody who says a few words; other voices in the tests than in training."""
    speakers = {"train": ("m1", "f1", "m7"), "test": ("m5", "f4", "max")}[side]
    return speak("the lift is on the left", f"en-us+{rng.choice(speakers)}", rate_wpm=180, pitch=50).audio


def only(kind):
    return NoiseConfig(weights=WeightsConfig(**(SILENT | {kind: 1.0})))


def ward_sound(seconds, rate_hz, seed, channels=1):
    return 0.1 * np.random.default_rng(seed).standard_normal((int(seconds * rate_hz), channels))


@pytest.fixture
def ward(tmp_path):
    """A folder of recordings as people have them: stereo, 8 kHz, shorter than the speech, compressed."""
    folder = tmp_path / "ward"
    (folder / "corridor").mkdir(parents=True)
    for number in range(8):
        soundfile.write(folder / f"lift{number}.wav", ward_sound(4, 16_000, number), 16_000)
    soundfile.write(folder / "stereo.flac", ward_sound(5, 44_100, 10, channels=2), 44_100)
    soundfile.write(folder / "phone.wav", ward_sound(6, 8_000, 11), 8_000)
    soundfile.write(folder / "corridor" / "door.wav", ward_sound(0.6, 16_000, 12), 16_000)
    soundfile.write(folder / "corridor" / "trolley.mp3", ward_sound(3, 16_000, 13), 16_000)
    return folder


def recorded(folder):
    return NoiseConfig(backgrounds=str(folder))


@pytest.mark.parametrize("kind", [*sorted(BACKGROUNDS), "babble", "recording"])
@pytest.mark.parametrize("snr_db", [10.0, 25.0])
def test_the_snr_is_what_the_row_says_for_every_kind_of_background(spoken, ward, kind, snr_db):
    stage = AddNoise(recorded(ward) if kind == "recording" else only(kind), talk)
    for seed in range(3):
        utterance = spoken(pause_seconds=1.0, snr_db=snr_db, seed=seed)
        noisy = stage(utterance)
        measured_db = 20 * np.log10(active_level(utterance.audio) / rms(noisy.audio - utterance.audio))
        assert measured_db == pytest.approx(snr_db, abs=0.5)
        assert noisy.steps[-1].params["background"] == kind


def test_kinds_are_drawn_as_their_weights_say(spoken):
    stage = AddNoise(NoiseConfig(weights=WeightsConfig(**(SILENT | {"alarm": 3.0, "footsteps": 1.0}))))
    kinds = [stage(spoken("hello", seed=seed)).steps[-1].params["background"] for seed in range(80)]
    assert set(kinds) == {"alarm", "footsteps"}
    assert kinds.count("alarm") == pytest.approx(60, abs=12)


def test_an_alarm_has_tones_and_pauses():
    sound = BACKGROUNDS["alarm"](10 * SAMPLE_RATE_HZ, np.random.default_rng(1))
    loudness = np.abs(sound[: len(sound) // 160 * 160]).reshape(-1, 160).max(axis=1)
    assert 0.02 < np.mean(loudness > 0.7 * loudness.max()) < 0.7
    powers = np.abs(np.fft.rfft(sound)) ** 2
    assert powers.max() > 1000 * np.median(powers)


def test_babble_of_training_and_tests_has_other_voices(spoken):
    heard = []

    def listening(side, rng):
        heard.append(side)
        return talk(side, rng)

    stage = AddNoise(only("babble"), listening)
    for split, side in (("train", "train"), ("test_unseen_terms", "test"), ("validation", "test")):
        heard.clear()
        stage(spoken("hello", split=split, seed=1))
        assert set(heard) <= {side}  # nobody, where the clip is there already
        assert heard or split == "validation"


def test_babble_is_the_same_in_every_worker(spoken):
    first, busy = AddNoise(only("babble"), talk), AddNoise(only("babble"), talk)
    busy(spoken("hello", seed=1))
    assert np.array_equal(first(spoken(seed=4)).audio, busy(spoken(seed=4)).audio)


def test_recordings_of_the_tests_are_never_heard_in_training(spoken, ward):
    stage = AddNoise(recorded(ward))
    heard = {
        split: {stage(spoken("hello", split=split, seed=seed)).steps[-1].params["recording"] for seed in range(60)}
        for split in ("train", "test", "validation")
    }
    assert not heard["train"] & (heard["test"] | heard["validation"])
    assert len(heard["train"] | heard["test"]) == 12


def test_stereo_8_khz_short_and_compressed_recordings_are_used(spoken, ward):
    assert check(AugmentationConfig(noise=recorded(ward)))
    utterance = spoken(pause_seconds=2.0)
    recordings = Recordings.open(str(ward))
    for recording in recordings.recordings:
        recordings.sides["train"] = [recording]
        noise, params = recordings.draw(utterance.slot, len(utterance.audio))
        assert noise.shape == utterance.audio.shape
        assert rms(noise[: SAMPLE_RATE_HZ // 2]) == pytest.approx(rms(noise[-SAMPLE_RATE_HZ // 2 :]), rel=0.2)
        assert params["recording"] == recording.name


def test_bad_recordings_are_all_named_before_anything_is_made(ward):
    (ward / "empty.wav").touch()
    (ward / "text.mp3").write_text("this is no sound")
    soundfile.write(ward / "click.wav", ward_sound(0.1, 16_000, 1), 16_000)
    soundfile.write(ward / "none.flac", np.zeros(0), 16_000)
    with pytest.raises(UserError, match="4 of the 16 recordings") as told:
        check(AugmentationConfig(noise=recorded(ward)))
    for name in ("empty.wav", "text.mp3", "click.wav lasts 0.10 s", "none.flac"):
        assert name in str(told.value)


def test_a_recording_that_goes_bad_later_costs_its_own_rows_alone(spoken, ward):
    stage = AddNoise(recorded(ward))
    bad = stage(spoken(seed=1)).steps[-1].params["recording"]
    (ward / bad).write_bytes(b"RIFF")
    made = run_stages([stage], [spoken("hello", seed=seed) for seed in range(40)])
    rejected = [utterance for utterance in made if utterance.status == "rejected"]
    assert 0 < len(rejected) < 20
    assert {utterance.reason.split(" (")[0] for utterance in rejected} == {f"noise: recording {bad} cannot be read"}


def test_a_silent_stretch_of_a_recording_is_a_rejection(spoken, tmp_path):
    for name in ("train", "test"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(32_000), 16_000)
    lines = [json.dumps({"file_name": f"{name}.wav", "split": name}) for name in ("train", "test")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(RejectedError, match=r"recording train.wav is silent"):
        AddNoise(recorded(tmp_path))(spoken())


def test_the_licence_of_a_recording_goes_into_the_row(spoken, ward):
    names = [recording.name for recording in Recordings.open(str(ward)).recordings]
    (ward / "licences.csv").write_text("file_name,licence\n" + "".join(f"{name},CC-BY-4.0\n" for name in names[1:]))
    (ward / "metadata.jsonl").write_text(json.dumps({"file_name": names[0], "license": "CC0-1.0"}))
    licences = {recording.name: recording.licence for recording in Recordings.open(str(ward)).recordings}
    assert licences == dict.fromkeys(names, "CC-BY-4.0") | {names[0]: "CC0-1.0"}
    params = AddNoise(recorded(ward))(spoken()).steps[-1].params
    assert params["licence"] == licences[params["recording"]]


def test_a_line_about_no_recording_says_where_it_is(ward):
    (ward / "metadata.jsonl").write_text('{"file_name": "lift0.wav"}\nlift1.wav: CC0\n')
    with pytest.raises(UserError, match=r"metadata.jsonl, line 2: .* has no file_name"):
        Recordings.open(str(ward))


def test_a_folder_with_nothing_for_the_tests_says_what_to_do(tmp_path):
    soundfile.write(tmp_path / "one.wav", ward_sound(1, 16_000, 0), 16_000)
    with pytest.raises(UserError, match="give each file a split"):
        Recordings.open(str(tmp_path))
    with pytest.raises(UserError, match="holds no recordings"):
        Recordings.open(str(tmp_path / "elsewhere"))


def test_the_id_of_the_recordings_follows_their_files(ward):
    before = check(AugmentationConfig(noise=recorded(ward)))
    assert check(AugmentationConfig(noise=recorded(ward))) == before
    soundfile.write(ward / "lift0.wav", ward_sound(3, 16_000, 0), 16_000)
    assert check(AugmentationConfig(noise=recorded(ward))) != before


@pytest.mark.parametrize(
    "columns",
    [("utterance_id", "audio_hash"), ("licence",)],
    ids=["ours", "another tool's"],
)
def test_a_manifest_is_a_source_of_backgrounds(spoken, tmp_path, columns):
    sounds = {f"row{number}": ward_sound(1, 16_000, number)[:, 0] for number in range(40)}
    rows = [
        {
            "audio": {"bytes": encode_flac(sound), "path": ""},
            "duration_seconds": 1.0,
            "text": "",
            **dict.fromkeys(columns, name),
        }
        for name, sound in sounds.items()
    ]
    with published_folder(tmp_path / "ward", key="test") as folder:
        (folder / "data").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    config = NoiseConfig(backgrounds=str(tmp_path / "ward"))
    assert check(AugmentationConfig(noise=config))
    utterance = spoken("hello", split="test")
    noisy = AddNoise(config)(utterance)
    params = noisy.steps[-1].params
    name = params["recording"].replace("train/", "row")
    expected = sounds[name][params["start"] :][: len(utterance.audio)]
    assert np.corrcoef(noisy.audio - utterance.audio, expected)[0, 1] > 0.99
    assert params["licence"] == (name if "licence" in columns else "unknown")


def test_recordings_may_lie_on_s3(spoken, ward, s3):
    for path in ward.glob("*.wav"):
        write_file(s3(f"ward/{path.name}"), path.read_bytes())
    here, there = AddNoise(recorded(ward)), AddNoise(NoiseConfig(backgrounds=s3("ward")))
    names = {recording.name for recording in there.backgrounds.recordings.recordings}
    assert names == {path.name for path in ward.glob("*.wav")}
    recordings = here.backgrounds.recordings
    recordings.sides["train"] = [recording for recording in recordings.sides["train"] if recording.name in names]
    assert np.array_equal(there(spoken()).audio, here(spoken()).audio)


def test_a_share_of_the_backgrounds_can_stay_synthesised(spoken, ward):
    stage = AddNoise(NoiseConfig(backgrounds=str(ward), recordings_share=0.5))
    kinds = [stage(spoken("hello", seed=seed)).steps[-1].params["background"] for seed in range(40)]
    assert 10 <= kinds.count("recording") <= 30
    synthesised = AddNoise(NoiseConfig())(spoken("hello", seed=kinds.index("monitor")))
    again = stage(spoken("hello", seed=kinds.index("monitor")))
    assert np.array_equal(synthesised.audio, again.audio)


def test_a_loop_has_no_click_and_no_dip_where_it_is_joined():
    sound = np.sin(2 * np.pi * 200 * np.arange(10_001) / SAMPLE_RATE_HZ)
    assert np.abs(np.diff(looped(sound, 50_000))).max() < 0.15  # a sine's own is 0.08
    noise = looped(np.random.default_rng(0).standard_normal(10_000), 50_000)
    levels = np.sqrt(np.mean(noise[:48_000].reshape(-1, 800) ** 2, axis=1))
    assert levels.min() > 0.85
    assert levels.max() < 1.15
