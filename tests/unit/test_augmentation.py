import numpy as np
import pytest

from pipelines.augmentation.backgrounds import BACKGROUNDS
from pipelines.augmentation.chain import TRANSFORMS, chain
from pipelines.augmentation.config import AugmentationConfig, MicrophoneConfig, NoiseConfig, RoomConfig
from pipelines.augmentation.microphone import Record
from pipelines.augmentation.noise import AddNoise, mix_at_snr
from pipelines.augmentation.room import PlayInRoom, impulse_response
from rayapp.audio.levels import active_level, rms
from rayapp.config import load_config
from rayapp.errors import UserError
from rayapp.records import SAMPLE_RATE_HZ
from rayapp.stage import run_stages


def level_of_speech(audio):
    """Another way to measure it: frames of 20 ms that stand within 25 dB of the loudest one."""
    frames = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    powers = np.mean(np.square(frames, dtype=np.float64), axis=1)
    return float(np.sqrt(powers[powers > powers.max() * 10**-2.5].mean()))


@pytest.mark.parametrize("snr_db", [10.0, 17.5, 25.0])
@pytest.mark.parametrize("pause_seconds", [0.0, 3.0])
def test_the_snr_of_active_speech_is_what_the_row_says(spoken, snr_db, pause_seconds):
    utterance = spoken(pause_seconds=pause_seconds, snr_db=snr_db)
    noisy = AddNoise(NoiseConfig())(utterance)
    noise = noisy.audio - utterance.audio
    measured_db = 20 * np.log10(level_of_speech(utterance.audio) / rms(noise))
    assert measured_db == pytest.approx(snr_db, abs=1.5)  # two definitions of active speech
    assert 20 * np.log10(active_level(utterance.audio) / rms(noise)) == pytest.approx(snr_db, abs=0.01)
    assert noisy.steps[-1].params["snr_db"] == snr_db


def test_gaussian_noise_leaves_the_snr_true(spoken):
    utterance = spoken(snr_db=25.0)
    noisy = AddNoise(NoiseConfig())(utterance)
    config = MicrophoneConfig(min_gain_db=0, max_gain_db=0, min_hiss_db=36, max_hiss_db=36)
    noise = Record(config)(noisy).audio - utterance.audio
    assert 20 * np.log10(active_level(utterance.audio) / rms(noise)) == pytest.approx(25.0, abs=0.5)


def test_pauses_do_not_make_speech_look_quiet(spoken):
    short, long = spoken().audio, spoken(pause_seconds=5.0).audio
    assert active_level(long) == pytest.approx(active_level(short), rel=0.1)  # a pause starts with 0.2 s of hangover
    assert rms(long) < 0.7 * rms(short)


def test_silence_has_no_level():
    assert active_level(np.zeros(16_000, np.float32)) == 0.0


@pytest.mark.parametrize("name", sorted(BACKGROUNDS))
def test_backgrounds_have_the_length_asked_for_and_are_neither_silent_nor_broken(name):
    for samples in (4_800, 16_001):
        noise = BACKGROUNDS[name](samples, np.random.default_rng(0))
        assert noise.shape == (samples,)
        assert np.isfinite(noise).all()
        assert rms(noise) > 0


def test_a_room_reverberates_for_as_long_as_rooms_do():
    response = impulse_response(3)
    energy = np.cumsum(response[::-1] ** 2)[::-1]
    decay_db = 10 * np.log10(energy / energy[0])
    at_20_db = np.argmax(decay_db < -20) / SAMPLE_RATE_HZ
    assert 0.02 < at_20_db < 0.3


def test_tests_are_played_in_rooms_that_training_never_heard(spoken):
    stage = PlayInRoom(RoomConfig(probability=1.0, rooms=4))
    rooms = {"train": set(), "test": set()}
    for split in rooms:
        for seed in range(12):
            rooms[split].add(stage(spoken("hello", split=split, seed=seed)).steps[-1].params["room"])
    assert rooms["train"] == {0, 1}
    assert rooms["test"] == {2, 3}


def test_a_room_keeps_length_and_peak(spoken):
    utterance = spoken()
    wet = PlayInRoom(RoomConfig(probability=1.0))(utterance)
    assert wet.audio.shape == utterance.audio.shape
    assert np.abs(wet.audio).max() == pytest.approx(np.abs(utterance.audio).max(), rel=1e-3)
    assert not np.allclose(wet.audio, utterance.audio, atol=0.01)


def test_gain_is_as_recorded_and_nothing_clips(spoken):
    utterance = spoken()
    quiet = Record(MicrophoneConfig(min_gain_db=-6, max_gain_db=-6))(utterance)
    assert 20 * np.log10(rms(quiet.audio) / rms(utterance.audio)) == pytest.approx(-6, abs=0.05)
    loud = Record(MicrophoneConfig(min_gain_db=40, max_gain_db=40))(utterance)
    assert np.abs(loud.audio).max() <= 0.99 + 1e-6
    assert loud.steps[-1].params["gain_db"] < 40


def test_the_same_slot_gets_the_same_noise_and_another_slot_another(spoken):
    stage = AddNoise(NoiseConfig())
    first, again, other = stage(spoken(seed=1)), stage(spoken(seed=1)), stage(spoken(seed=2))
    assert np.array_equal(first.audio, again.audio)
    assert first.utterance_id == again.utterance_id
    assert not np.array_equal(first.audio, other.audio)
    assert first.utterance_id != other.utterance_id


def test_an_snr_range_the_wrong_way_round_says_which_key_to_change():
    with pytest.raises(ValueError, match=r"min_snr_db .* is above max_snr_db"):
        NoiseConfig(min_snr_db=30, max_snr_db=10)


def test_mixing_is_a_plain_sum():
    speech, noise = np.full(16_000, 0.1, np.float32), np.random.default_rng(0).standard_normal(16_000)
    mixed = mix_at_snr(speech, noise, 20.0)
    share = (mixed - speech) / noise
    assert share.std() < 1e-6


def test_the_default_chain_draws_what_it_has_always_drawn(spoken):
    (made,) = run_stages([make() for make in chain(AugmentationConfig())], [spoken(seed=4)])
    assert [(step.name, step.version, dict(step.params)) for step in made.steps] == [
        ("room", 1, {"room": 4}),
        ("noise", 1, {"background": "murmur", "snr_db": 15.0}),
        ("microphone", 1, {"hiss_db": 40.42, "gain_db": -1.78}),
    ]


def test_the_chain_is_in_the_order_of_the_settings(spoken):
    config = AugmentationConfig(chain=("padding", "microphone", "noise"))
    (made,) = run_stages([make() for make in chain(config)], [spoken()])
    assert [step.name for step in made.steps] == ["padding", "microphone", "noise"]


def test_every_transform_has_a_section_of_settings_and_a_stage_of_its_name():
    for name, stage in TRANSFORMS.items():
        assert stage.name == name
        assert 0 < getattr(AugmentationConfig(), name).probability <= 1


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_a_transform_happens_to_its_share_of_the_utterances_and_tells(spoken, name):
    section = getattr(AugmentationConfig(), name).model_copy(update={"probability": 0.5})
    stage = TRANSFORMS[name](section)
    utterances = [spoken("hello", seed=seed) for seed in range(30)]
    made = [stage(utterance) for utterance in utterances]
    changed = [not np.array_equal(m.audio, u.audio) for m, u in zip(made, utterances, strict=True)]
    assert [bool(m.steps) for m in made] == changed
    assert 7 <= sum(changed) <= 23


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_a_transform_of_the_same_slot_sounds_the_same_again(spoken, name):
    section = getattr(AugmentationConfig(), name).model_copy(update={"probability": 1.0})
    first, again = TRANSFORMS[name](section)(spoken()), TRANSFORMS[name](section)(spoken())
    assert np.array_equal(first.audio, again.audio)
    assert first.utterance_id == again.utterance_id


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("chain=[room, noise, room]", "chain has room more than once"),
        ("chain=[room, noize]", "'room', 'noise', 'microphone', 'response'"),
        ("speed.min_factor=1.2", r"augmentation.speed: min_factor \(1.2\) is above max_factor \(1.1\); swap them"),
        ("noise.weights={ventilation: 0, monitor: 0, murmur: 0}", "give a weight to one or more of ventilation"),
        ("noise.weights.alarms=1", "did you mean noise.weights.alarm"),
        ("codec.codecs=[aac]", "'mp3', 'opus', 'mulaw' or 'alaw'"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(override, message):
    with pytest.raises(UserError, match=message):
        load_config(AugmentationConfig, overrides=[override], environment={})
