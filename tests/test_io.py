"""Files and pipes: what is read, what is written, and what is refused."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.io.arrays import ArraySource
from rtmtass.io.encodings import FORMATS, Encoding, choose_encoding
from rtmtass.io.files import FileSink, FileSource, read_file
from rtmtass.io.pipes import StreamSink, StreamSource, open_source
from rtmtass.io.wav_header import WavHeader, read_header, stream_header

FLOAT_WAV = Encoding("wav", "WAV", "FLOAT")


def noise(n, channels=1):
    return np.random.default_rng(n).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)


def drain(source, size=1000):
    out, parts = np.zeros((size, source.channels), np.float32), []
    while n := source.read(out):
        parts.append(out[:n].copy())
    return np.concatenate(parts) if parts else np.zeros((0, source.channels), np.float32)


def choose(**options):
    given = {"suffix": ".flac", "subtype": "PCM_16", "sample_rate": 44100, "channels": 2}
    return choose_encoding(**(given | options))


class Trickle(io.RawIOBase):
    """A pipe whose writer is slow: it hands over a few bytes at a time."""

    def __init__(self, data, step=7):
        self._data, self._step = data, step

    def read(self, size=-1):
        n = min(size, self._step)
        taken, self._data = self._data[:n], self._data[n:]
        return taken


# --- files in


@pytest.mark.parametrize(("name", "subtype"), [
    ("a.wav", "PCM_16"), ("a.wav", "FLOAT"), ("a.wav", "PCM_24"), ("a.flac", "PCM_16"),
    ("a.aiff", "PCM_16"), ("a.w64", "FLOAT"), ("a.caf", "PCM_24"),
])  # fmt: skip
def test_a_file_comes_back_block_by_block(tmp_path, name, subtype):
    x = noise(4321, 2)
    soundfile.write(tmp_path / name, x, 44100, subtype)
    source = FileSource(tmp_path / name)
    assert (source.sample_rate, source.channels, source.frames) == (44100, 2, 4321)
    np.testing.assert_allclose(drain(source), x, atol=2**-15)
    assert source.read(np.zeros((5, 2), np.float32)) == 0
    source.close()
    source.close()


def test_an_array_is_a_source_too():
    x = noise(2500, 2)
    np.testing.assert_array_equal(drain(ArraySource(x, 16000)), x)
    np.testing.assert_array_equal(drain(ArraySource(x[:, 0], 16000)), x[:, :1])


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_a_sample_that_is_none_is_found(tmp_path, bad, words):
    x = noise(32000, 2)
    x[24000, 1] = bad
    soundfile.write(tmp_path / "a.wav", x, 16000, "FLOAT")
    with pytest.raises(InputError, match=rf"a.wav holds {words} at 1.500 s \(frame 24000\)"):
        drain(FileSource(tmp_path / "a.wav"))


def test_loud_but_finite_samples_pass(tmp_path):
    x = np.full((4, 1), 3e38, np.float32)
    soundfile.write(tmp_path / "a.wav", x, 16000, "FLOAT")
    np.testing.assert_array_equal(drain(FileSource(tmp_path / "a.wav")), x)


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])


def test_a_truncated_wav_names_both_lengths_and_may_be_allowed(tmp_path):
    path = tmp_path / "a.wav"
    x = noise(32000)
    soundfile.write(path, x, 16000, "PCM_16")
    cut(path, 44 + 2 * 8000)
    with pytest.raises(InputError, match=r"promises 2.00 s \(32000 frames\), it holds 0.50 s"):
        FileSource(path)
    there = drain(FileSource(path, allow_truncated=True))
    np.testing.assert_allclose(there, x[:8000], atol=2**-15)


@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
def test_a_truncated_compressed_file_is_told_too(tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, noise(160000), 16000)
    cut(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="cut short"):
        drain(FileSource(path), 16000)
    assert len(drain(FileSource(path, allow_truncated=True), 1000)) > 1000


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_whose_length_was_never_filled_in_is_read_whole(tmp_path, length):
    path = tmp_path / "a.wav"
    x = noise(9000, 2)
    soundfile.write(path, x, 16000, "PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", length)
    path.write_bytes(data)
    source = open_source(path)
    assert source.frames == 9000
    np.testing.assert_allclose(drain(source), x, atol=2**-15)
    source.close()


def test_a_wav_without_samples_but_with_tags_is_empty(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(0), 16000, "PCM_16")
    path.write_bytes(path.read_bytes() + struct.pack("<4sI", b"LIST", 8) + b"INFOabcd")
    with pytest.raises(InputError, match="no samples"):
        open_source(path)


def test_what_is_no_recording_is_refused_in_one_line(tmp_path):
    empty, text = tmp_path / "e.wav", tmp_path / "t.txt"
    empty.touch()
    text.write_text("no sound\n" * 100)
    soundfile.write(tmp_path / "slow.wav", noise(100), 1000)
    for path, words in [
        (empty, "is empty"),
        (text, "no audio"),
        (tmp_path / "none.wav", "doesn't exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "slow.wav", "1000 Hz; rtmtass takes 4000 to 384000 Hz"),
    ]:
        with pytest.raises(InputError, match=words) as told:
            open_source(path)
        assert "\n" not in str(told.value)
        assert str(path) in str(told.value)


# --- files out


@pytest.mark.parametrize("frames", [3000, None])
def test_a_sink_leaves_nothing_under_the_final_name_until_it_is_whole(tmp_path, frames):
    target, x = tmp_path / "a.wav", noise(3000, 2)
    sink = FileSink(target, 48000, 2, FLOAT_WAV, frames=frames)
    for start in range(0, 3000, 700):
        sink.write(x[start : start + 700])
    assert os.listdir(tmp_path) == ["a.wav.part"]
    sink.finalise()
    np.testing.assert_array_equal(soundfile.read(sink.part, always_2d=True)[0], x)
    sink.publish()
    assert os.listdir(tmp_path) == ["a.wav"]
    np.testing.assert_array_equal(soundfile.read(target, always_2d=True)[0], x)
    assert target.read_bytes()[:4] == b"RIFF"


def test_an_rf64_made_plain_has_sizes_that_add_up(tmp_path):
    target = tmp_path / "a.wav"
    sink = FileSink(target, 48000, 1, Encoding("wav", "WAV", "PCM_16"), frames=None)
    sink.write(noise(1000))
    sink.publish()
    with target.open("rb") as file:
        header = read_header(file.read, "a.wav")
    assert (header.frames, header.encoding, header.sample_rate) == (1000, "s16", 48000)
    assert struct.unpack_from("<I", target.read_bytes(), 4)[0] == target.stat().st_size - 8


def test_a_wav_too_long_for_its_size_field_is_an_rf64(tmp_path, monkeypatch):
    x = noise(5000, 2)
    monkeypatch.setattr("rtmtass.io.files.WAV_LIMIT", 10_000)
    monkeypatch.setattr("rtmtass.io.part_file.WAV_LIMIT", 10_000)
    sink = FileSink(tmp_path / "a.wav", 48000, 2, FLOAT_WAV, frames=5000)
    sink.write(x)
    sink.publish()
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"
    np.testing.assert_array_equal(read_file(tmp_path / "a.wav")[0], x)
    with (tmp_path / "a.wav").open("rb") as file:
        assert read_header(file.read, "a.wav").frames == 5000


def test_abandoned_means_gone(tmp_path):
    sink = FileSink(tmp_path / "a.flac", 48000, 1, Encoding("flac", "FLAC", "PCM_16"))
    sink.write(noise(100))
    sink.abandon()
    sink.abandon()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n", [1, 255, 256, 257, 20001])
def test_every_format_keeps_the_exact_count(tmp_path, name, n):
    x = noise(n, 2)
    encoding = choose(sample_rate=48000, wanted_format=name)
    sink = FileSink(tmp_path / f"a.{name}", 48000, 2, encoding, frames=n)
    sink.write(x)
    sink.publish()
    samples, rate = read_file(tmp_path / f"a.{name}")
    assert (samples.shape, rate) == ((n, 2), 48000)


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "opus"])
def test_tags_go_where_the_format_has_room(tmp_path, name):
    encoding = choose(sample_rate=48000, wanted_format=name)
    tags = {"title": "Talk", "artist": "Ärzte", "date": "2021"}
    sink = FileSink(tmp_path / f"a.{name}", 48000, 2, encoding, tags=tags)
    sink.write(noise(5000, 2))
    sink.publish()
    assert FileSource(tmp_path / f"a.{name}").tags == tags


def test_clipped_samples_are_counted(tmp_path):
    block = np.array([[0.5], [1.5], [-2.0], [1.0]], np.float32)
    sink = FileSink(tmp_path / "a.wav", 16000, 1, Encoding("wav", "WAV", "PCM_16"))
    sink.write(block)
    sink.finalise()
    assert sink.clipped == 2
    whole = FileSink(tmp_path / "b.wav", 16000, 1, FLOAT_WAV)
    whole.write(block)
    whole.finalise()
    assert whole.clipped == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, name):
    target = tmp_path / f"a.{name}"
    (tmp_path / f"a.{name}.part").symlink_to("/dev/full")

    def fill():
        encoding = choose(sample_rate=48000, wanted_format=name)
        sink = FileSink(target, 48000, 2, encoding)
        try:
            for _ in range(100):
                sink.write(noise(48000, 2))
            sink.publish()
        finally:
            sink.abandon()

    with pytest.raises(OutputError, match="the disk is full"):
        fill()
    assert os.listdir(tmp_path) == []


def test_no_folder_no_file(tmp_path):
    with pytest.raises(OutputError, match="none is no folder; name another folder with -o"):
        FileSink(tmp_path / "none" / "a.wav", 16000, 1, FLOAT_WAV)


def test_forbidden_files_are_told(tmp_path, monkeypatch):
    """By a stand-in for the system's refusal, because root is refused nothing."""
    soundfile.write(tmp_path / "a.wav", noise(100), 16000)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"a.wav may not be read by you; chmod u\+r it"):
        FileSource(tmp_path / "a.wav")
    with pytest.raises(OutputError, match=r"b.wav may not be written by you; name another"):
        FileSink(tmp_path / "b.wav", 16000, 1, FLOAT_WAV)


# --- formats


@pytest.mark.parametrize(("wish", "expected"), [
    ({}, ("flac", "PCM_16")),
    ({"subtype": "PCM_24"}, ("flac", "PCM_24")),
    ({"suffix": ".wav", "subtype": "FLOAT"}, ("wav", "FLOAT")),
    ({"suffix": ".wav", "subtype": "ULAW"}, ("wav", "PCM_16")),
    ({"suffix": ".wav", "subtype": "DOUBLE"}, ("wav", "FLOAT")),
    ({"suffix": ".MP3", "subtype": "MPEG_LAYER_III"}, ("mp3", "MPEG_LAYER_III")),
    ({"suffix": ".mp3", "subtype": "MPEG_LAYER_III", "wanted_format": "wav"}, ("wav", "FLOAT")),
    ({"suffix": ".aiff"}, ("wav", "PCM_16")),
    ({"wanted_format": "ogg"}, ("ogg", "VORBIS")),
    ({"wanted_subtype": "PCM_24"}, ("flac", "PCM_24")),
])  # fmt: skip
def test_the_output_is_as_near_to_the_input_as_can_be(wish, expected):
    encoding = choose(**wish)
    assert (encoding.format, encoding.subtype) == expected


@pytest.mark.parametrize(("wish", "error", "words"), [
    ({"wanted_format": "mp3", "channels": 6}, OutputError, "at most 2 channels, not 6"),
    ({"wanted_format": "mp3", "sample_rate": 96000}, OutputError, "can't hold 96000 Hz"),
    ({"wanted_format": "opus"}, OutputError, "can't hold 44100 Hz"),
    ({"wanted_format": "ogg", "sample_rate": 384000}, OutputError, "can't hold 384000 Hz"),
    ({"wanted_format": "mp3", "wanted_subtype": "PCM_16"}, UsageError, "doesn't go with mp3"),
])  # fmt: skip
def test_what_a_format_cannot_hold_is_known_before(wish, error, words):
    with pytest.raises(error, match=words):
        choose(**wish)


# --- pipes


@pytest.mark.parametrize("encoding", ["f32", "s16"])
@pytest.mark.parametrize("frames", [None, 500])
def test_a_stream_of_wav_comes_back(encoding, frames):
    x, wire = noise(500, 2), io.BytesIO()
    wire.close = lambda: None
    sink = StreamSink(wire, 22050, 2, encoding, is_raw=False, frames=frames)
    sink.write(x[:3])
    sink.write(x[3:])
    for step in (1, 7, 4096):
        source = StreamSource(Trickle(wire.getvalue(), step), "stdin")
        assert (source.sample_rate, source.channels, source.frames) == (22050, 2, frames)
        np.testing.assert_allclose(drain(source), x, atol=2**-15)
    samples, rate = soundfile.read(io.BytesIO(wire.getvalue()), always_2d=True)
    assert rate == 22050
    np.testing.assert_allclose(samples, x, atol=2**-15)


def raw(encoding, channels=1):
    return WavHeader(16000, channels, encoding, None, 0, 0)


@pytest.mark.parametrize(("dtype", "encoding", "full_scale"), [
    ("<f4", "f32", 1), ("<i2", "s16", 32768), ("<i4", "s32", 2**31), ("<f8", "f64", 1),
])  # fmt: skip
def test_raw_samples_are_read_as_they_trickle_in(dtype, encoding, full_scale):
    x = noise(300, 3)
    data = (x.astype("f8") * full_scale).astype(dtype).tobytes()
    got = drain(StreamSource(Trickle(data, 11), "stdin", raw(encoding, 3)))
    np.testing.assert_allclose(got, x, atol=2**-15)


def test_24_and_8_bit_wavs_are_read(tmp_path):
    x = noise(300, 2)
    for subtype, tolerance in (("PCM_24", 2**-22), ("PCM_U8", 2**-6)):
        soundfile.write(tmp_path / "a.wav", x, 16000, subtype)
        source = StreamSource(Trickle((tmp_path / "a.wav").read_bytes()), "stdin")
        np.testing.assert_allclose(drain(source), x, atol=tolerance)


def test_a_block_is_handed_over_as_soon_as_it_is_there():
    """A read must not wait for more than has come: that would be latency."""
    source = StreamSource(Trickle(noise(100).tobytes(), 40), "stdin", raw("f32"))
    assert source.read(np.zeros((1000, 1), np.float32)) == 10


@pytest.mark.parametrize(("data", "words"), [
    (b"", "holds no samples"),
    (b"fLaC" + bytes(100), "holds no WAV header; for raw samples add --rate"),
    (stream_header(16000, 1, "f32")[:20], "ends inside its WAV header"),
    (stream_header(16000, 1, "f32"), "holds no samples"),
    (stream_header(16000, 1, "f32", 100) + bytes(40), r"promises 0.01 s \(100 frames\), it holds"),
    (stream_header(500, 1, "f32") + bytes(40), "500 Hz"),
])  # fmt: skip
def test_a_bad_stream_is_told(data, words):
    with pytest.raises(InputError, match=words):
        drain(StreamSource(Trickle(data), "stdin"))


def test_a_wav_taken_for_raw_is_told():
    data = stream_header(16000, 1, "f32") + bytes(400)
    with pytest.raises(InputError, match="is a WAV, not raw samples; leave out --rate"):
        drain(StreamSource(Trickle(data), "stdin", raw("f32")))


def test_s16_wraps_nothing_around():
    wire = io.BytesIO()
    sink = StreamSink(wire, 16000, 1, "s16")
    sink.write(np.array([[1.5], [-1.5], [0.25]], np.float32))
    assert np.frombuffer(wire.getvalue(), "<i2").tolist() == [32767, -32768, 8192]
    assert sink.clipped == 2


def test_only_audio_knows_soundfile():
    """The rest of the file side must run without it being imported at the top."""
    code = (
        "import sys; import rtmtass.io.wav_header, rtmtass.io.encodings, rtmtass.io.part_file;"
        "import rtmtass.signals;"
        "sys.exit('soundfile' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
