import io
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from rayapp.audio.stream import decoded
from rayapp.errors import UserError


def tone(rate):
    """3 s of 440 Hz."""
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(rate * 3) / rate)).astype(np.float32)


def encoded(form, codec, rate=48_000, channels=1, audio=None):
    """The file that a client would send."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo" if channels == 2 else "mono")
        samples = np.tile(tone(rate) if audio is None else audio, (channels, 1))
        frame = av.AudioFrame.from_ndarray(samples, "fltp", stream.layout.name)
        frame.rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    file.seek(0)
    return file


def wav(audio, rate=16_000, **how):
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format="WAV", **how)
    return file.getvalue()


def heard(file, **limits):
    return np.concatenate(list(decoded(file, **limits)))


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [
        ("wav", "pcm_s16le", 48_000),
        ("wav", "pcm_f32le", 44_100),
        ("wav", "pcm_mulaw", 8_000),
        ("flac", "flac", 48_000),
        ("mp3", "libmp3lame", 44_100),
        ("mp4", "aac", 48_000),
        ("ipod", "aac", 44_100),
        ("ogg", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("mpeg", "mp2", 48_000),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_heard_at_16_khz(form, codec, rate, channels):
    audio = heard(encoded(form, codec, rate, channels))
    assert len(audio) / 16_000 == pytest.approx(3, abs=0.15)
    middle = audio[8_000:24_000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
    loudest = np.argmax(np.abs(np.fft.rfft(middle)))
    assert loudest == pytest.approx(440, abs=4)


def test_ogg_vorbis_is_heard():
    file = io.BytesIO()
    soundfile.write(file, tone(16_000), 16_000, format="OGG")
    file.seek(0)
    assert len(heard(file)) == pytest.approx(48_000, abs=1_000)


@pytest.mark.parametrize(
    ("form", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("mp4", "aac"), ("matroska", "flac"), ("adts", "aac")]
)
def test_what_is_cut_off_is_refused_and_not_heard_in_part(form, codec):
    whole = encoded(form, codec).getvalue()
    with pytest.raises(UserError, match=r"cut off|damaged|not audio that can be read"):
        heard(io.BytesIO(whole[: len(whole) // 2]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not audio that can be read"),
        (bytes(range(256)) * 20, "is not audio that can be read"),
        (wav(np.zeros(0, np.float32)), "holds no audio"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "is not audio that can be read"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "is not audio that can be read"),
    ],
)
def test_what_is_no_audio_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        heard(io.BytesIO(content), name="note.mp3")


def test_a_playlist_opens_no_other_file(tmp_path):
    (tmp_path / "secret.wav").write_bytes(wav(np.full(16_000, 0.1, np.float32)))
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'secret.wav'}\n")
    for source in (tmp_path / "list.m3u8", io.BytesIO((tmp_path / "list.m3u8").read_bytes())):
        with pytest.raises(UserError, match="is not audio that can be read"):
            heard(source)


def test_decoding_stops_at_the_limit_though_the_file_says_nothing_of_its_length():
    small = encoded("ogg", "libopus", audio=np.zeros(48_000 * 600, np.float32))  # ten minutes in a few KB
    assert len(small.getvalue()) < 200_000
    tracemalloc.start()
    with pytest.raises(UserError, match="is longer than 2 s, the most that is taken"):
        heard(small, max_seconds=2)
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()
    assert len(heard(io.BytesIO(wav(tone(16_000)[:32_000])), max_seconds=2)) == 32_000


def test_what_was_not_sent_is_silence():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        stream.codec_context.time_base = Fraction(1, 16_000)
        for start in (0, 48_000):  # a second each, and two between them of which nothing came
            for at in range(start, start + 16_000, 4_000):
                frame = av.AudioFrame.from_ndarray(np.full((1, 4_000), 9_000, np.int16), "s16", "mono")
                frame.rate, frame.pts, frame.time_base = 16_000, at, Fraction(1, 16_000)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    audio = heard(file)
    assert len(audio) / 16_000 == pytest.approx(4, abs=0.05)
    assert not audio[17_000:47_000].any()
    assert audio[50_000] > 0.2


@pytest.mark.parametrize("rate", [5, 1_000])
def test_a_few_bytes_cannot_claim_to_last_for_hours(rate):
    with pytest.raises(UserError, match=f"has {rate} samples in a second"):
        heard(io.BytesIO(wav(np.zeros(4_000, np.float32), rate)))


def test_channels_are_averaged_and_odd_values_are_harmless():
    both = np.stack([np.full(16_000, 0.5, np.float32), np.full(16_000, -0.1, np.float32)], axis=1)
    assert heard(io.BytesIO(wav(both, subtype="FLOAT"))) == pytest.approx(0.2, abs=1e-4)
    odd = np.array([np.nan, np.inf, -np.inf, 7.0] * 4_000, np.float32)
    audio = heard(io.BytesIO(wav(odd, subtype="FLOAT")))
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() <= 1


def test_a_file_that_was_written_to_a_pipe_is_whole():
    file = bytearray(wav(tone(16_000)[:16_000]))
    file[4:8] = file[40:44] = b"\xff\xff\xff\xff"
    assert len(heard(io.BytesIO(bytes(file)))) == 16_000
