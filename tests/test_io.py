"""Files and pipes: round trips, invalid input, and write errors."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from failing_file import fail

from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.io import part_file
from rtmtass.io.arrays import ArraySource
from rtmtass.io.encodings import FORMATS, Encoding, choose_encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.io.files import FileSource, check_finite, read_file
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


def choose(**options: Any) -> Encoding:
    defaults: dict[str, Any] = {
        "suffix": ".flac",
        "subtype": "PCM_16",
        "sample_rate": 44100,
        "channels": 2,
    }
    return choose_encoding(**(defaults | options))


class Pipe(io.BytesIO):
    """Keeps its bytes when it is closed."""

    def close(self):
        pass


class Trickle(io.RawIOBase):
    """A pipe with a slow writer: each read returns a few bytes."""

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
def test_file_source_reads_block_by_block(tmp_path, name, subtype):
    x = noise(4321, 2)
    soundfile.write(tmp_path / name, x, 44100, subtype)
    source = FileSource(tmp_path / name)
    assert (source.sample_rate, source.channels, source.frames) == (44100, 2, 4321)
    np.testing.assert_allclose(drain(source), x, atol=2**-15)
    assert source.read(np.zeros((5, 2), np.float32)) == 0
    source.close()
    source.close()


def test_array_source():
    x = noise(2500, 2)
    np.testing.assert_array_equal(drain(ArraySource(x, 16000)), x)
    np.testing.assert_array_equal(drain(ArraySource(x[:, 0], 16000)), x[:, :1])


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "Inf")])
def test_nan_and_inf_are_rejected_with_their_position(tmp_path, value, name):
    x = noise(32000, 2)
    x[24000, 1] = value
    soundfile.write(tmp_path / "a.wav", x, 16000, "FLOAT")
    with pytest.raises(InputError, match=rf"a.wav contains {name} at 1.500 s \(frame 24000\)"):
        drain(FileSource(tmp_path / "a.wav"))


def test_large_finite_samples_are_accepted(tmp_path):
    x = np.full((4, 1), 9e8, np.float32)
    soundfile.write(tmp_path / "a.wav", x, 16000, "FLOAT")
    np.testing.assert_array_equal(drain(FileSource(tmp_path / "a.wav")), x)


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])


def test_truncated_wav_is_rejected_with_both_lengths_unless_allowed(tmp_path):
    path = tmp_path / "a.wav"
    x = noise(32000)
    soundfile.write(path, x, 16000, "PCM_16")
    cut(path, 44 + 2 * 8000)
    with pytest.raises(InputError, match=r"promises 2.00 s \(32000 frames\), it holds 0.50 s"):
        FileSource(path)
    present = drain(FileSource(path, allow_truncated=True))
    np.testing.assert_allclose(present, x[:8000], atol=2**-15)


@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
def test_truncated_compressed_file_is_rejected_unless_allowed(tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, noise(160000), 16000)
    cut(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="cut short"):
        drain(FileSource(path), 16000)
    assert len(drain(FileSource(path, allow_truncated=True), 1000)) > 1000


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_without_length_is_read_to_its_end(tmp_path, length):
    path = tmp_path / "a.wav"
    x = noise(9000, 2)
    soundfile.write(path, x, 16000, "PCM_16")
    data = bytearray(path.read_bytes())
    offset = data.index(b"data")
    data[offset + 4 : offset + 8] = struct.pack("<I", length)
    path.write_bytes(data)
    source = open_source(path)
    assert source.frames == 9000
    np.testing.assert_allclose(drain(source), x, atol=2**-15)
    source.close()


def test_wav_with_tags_but_no_samples_is_empty(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(0), 16000, "PCM_16")
    path.write_bytes(path.read_bytes() + struct.pack("<4sI", b"LIST", 8) + b"INFOabcd")
    with pytest.raises(InputError, match="no samples"):
        open_source(path)


def test_invalid_files_are_rejected_in_one_line(tmp_path):
    empty, text = tmp_path / "e.wav", tmp_path / "t.txt"
    empty.touch()
    text.write_text("no sound\n" * 100)
    soundfile.write(tmp_path / "slow.wav", noise(100), 1000)
    for path, message in [
        (empty, "is empty"),
        (text, "is not audio"),
        (tmp_path / "none.wav", "doesn't exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "slow.wav", "1000 Hz; rtmtass supports 4000 to 384000 Hz"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            open_source(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


# --- files out


@pytest.mark.parametrize("frames", [3000, None])
def test_file_sink_renames_only_when_complete(tmp_path, frames):
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


def test_rf64_turned_into_wav_has_correct_sizes(tmp_path):
    target = tmp_path / "a.wav"
    sink = FileSink(target, 48000, 1, Encoding("wav", "WAV", "PCM_16"), frames=None)
    sink.write(noise(1000))
    sink.publish()
    with target.open("rb") as file:
        header = read_header(file.read, "a.wav")
    assert (header.frames, header.encoding, header.sample_rate) == (1000, "s16", 48000)
    assert struct.unpack_from("<I", target.read_bytes(), 4)[0] == target.stat().st_size - 8


def test_wav_too_long_for_its_size_field_is_rf64(tmp_path, monkeypatch):
    x = noise(5000, 2)
    monkeypatch.setattr("rtmtass.io.file_sink.WAV_LIMIT", 10_000)
    monkeypatch.setattr("rtmtass.io.part_file.WAV_LIMIT", 10_000)
    sink = FileSink(tmp_path / "a.wav", 48000, 2, FLOAT_WAV, frames=5000)
    sink.write(x)
    sink.publish()
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"
    np.testing.assert_array_equal(read_file(tmp_path / "a.wav")[0], x)
    with (tmp_path / "a.wav").open("rb") as file:
        assert read_header(file.read, "a.wav").frames == 5000


def test_abandon_removes_the_part_file(tmp_path):
    sink = FileSink(tmp_path / "a.flac", 48000, 1, Encoding("flac", "FLAC", "PCM_16"))
    sink.write(noise(100))
    sink.abandon()
    sink.abandon()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n", [1, 255, 256, 257, 20001])
def test_every_format_keeps_the_length(tmp_path, name, n):
    x = noise(n, 2)
    encoding = choose(sample_rate=48000, requested_format=name)
    sink = FileSink(tmp_path / f"a.{name}", 48000, 2, encoding, frames=n)
    sink.write(x)
    sink.publish()
    samples, rate = read_file(tmp_path / f"a.{name}")
    assert (samples.shape, rate) == ((n, 2), 48000)


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "opus"])
def test_tags_are_written(tmp_path, name):
    encoding = choose(sample_rate=48000, requested_format=name)
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
    unclipped = FileSink(tmp_path / "b.wav", 16000, 1, FLOAT_WAV)
    unclipped.write(block)
    unclipped.finalise()
    assert unclipped.clipped == 0


@pytest.mark.parametrize("name", FORMATS)
def test_full_disk_is_reported_and_leaves_no_file(tmp_path, monkeypatch, name):
    target = tmp_path / f"a.{name}"
    monkeypatch.setattr(part_file, "FileIO", part_file.FileIO)
    fail(lambda n, operation, path: n > 50 and operation == "write")

    def fill():
        encoding = choose(sample_rate=48000, requested_format=name)
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


def test_missing_folder_is_reported(tmp_path):
    with pytest.raises(OutputError, match="none is not a folder; name another folder with -o"):
        FileSink(tmp_path / "none" / "a.wav", 16000, 1, FLOAT_WAV)


def test_permission_errors_are_reported(tmp_path, monkeypatch):
    """Simulated, because root has every permission."""
    soundfile.write(tmp_path / "a.wav", noise(100), 16000)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"a.wav can't be read: permission denied; chmod u\+r /"):
        FileSource(tmp_path / "a.wav")
    with pytest.raises(
        OutputError, match=r"b.wav can't be written: permission denied; name another"
    ):
        FileSink(tmp_path / "b.wav", 16000, 1, FLOAT_WAV)


# --- formats


@pytest.mark.parametrize(("options", "expected"), [
    ({}, ("flac", "PCM_16")),
    ({"subtype": "PCM_24"}, ("flac", "PCM_24")),
    ({"suffix": ".wav", "subtype": "FLOAT"}, ("wav", "FLOAT")),
    ({"suffix": ".wav", "subtype": "ULAW"}, ("wav", "PCM_16")),
    ({"suffix": ".wav", "subtype": "DOUBLE"}, ("wav", "FLOAT")),
    ({"suffix": ".MP3", "subtype": "MPEG_LAYER_III"}, ("mp3", "MPEG_LAYER_III")),
    ({"suffix": ".mp3", "subtype": "MPEG_LAYER_III", "requested_format": "wav"}, ("wav", "FLOAT")),
    ({"suffix": ".aiff"}, ("wav", "PCM_16")),
    ({"requested_format": "ogg"}, ("ogg", "VORBIS")),
    ({"requested_subtype": "PCM_24"}, ("flac", "PCM_24")),
])  # fmt: skip
def test_default_encoding_follows_the_input(options, expected):
    encoding = choose(**options)
    assert (encoding.format, encoding.subtype) == expected


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"requested_format": "mp3", "channels": 6}, OutputError, "at most 2 channels, not 6"),
    ({"requested_format": "mp3", "sample_rate": 96000}, OutputError, "doesn't support 96000 Hz"),
    ({"requested_format": "opus"}, OutputError, "doesn't support 44100 Hz"),
    ({"requested_format": "ogg", "sample_rate": 384000}, OutputError, "doesn't support 384000 Hz"),
    ({"sample_rate": 88201}, OutputError, "flac doesn't support 88201 Hz; add --format wav"),
    ({"requested_format": "mp3", "requested_subtype": "PCM_16"}, UsageError,
     "mp3 doesn't support --subtype PCM_16"),
])  # fmt: skip
def test_unsupported_encodings_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        choose(**options)


# --- pipes


@pytest.mark.parametrize("encoding", ["f32", "s16"])
@pytest.mark.parametrize("frames", [None, 500])
def test_wav_stream_round_trip(encoding, frames):
    x, pipe = noise(500, 2), Pipe()
    sink = StreamSink(pipe, 22050, 2, encoding, is_raw=False, frames=frames)
    sink.write(x[:3])
    sink.write(x[3:])
    for step in (1, 7, 4096):
        source = StreamSource(Trickle(pipe.getvalue(), step), "stdin")
        assert (source.sample_rate, source.channels, source.frames) == (22050, 2, frames)
        np.testing.assert_allclose(drain(source), x, atol=2**-15)
    samples, rate = soundfile.read(io.BytesIO(pipe.getvalue()), always_2d=True)
    assert rate == 22050
    np.testing.assert_allclose(samples, x, atol=2**-15)


def raw(encoding, channels=1):
    return WavHeader(16000, channels, encoding, None, 0, 0)


@pytest.mark.parametrize(("dtype", "encoding", "full_scale"), [
    ("<f4", "f32", 1), ("<i2", "s16", 32768), ("<i4", "s32", 2**31), ("<f8", "f64", 1),
])  # fmt: skip
def test_raw_samples_in_odd_chunks(dtype, encoding, full_scale):
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


def test_read_returns_what_is_available():
    """Waiting for a full block would add latency."""
    source = StreamSource(Trickle(noise(100).tobytes(), 40), "stdin", raw("f32"))
    assert source.read(np.zeros((1000, 1), np.float32)) == 10


@pytest.mark.parametrize(("data", "message"), [
    (b"", "holds no samples"),
    (b"fLaC" + bytes(100), "has no WAV header; for raw samples add --rate"),
    (stream_header(16000, 1, "f32")[:20], "ends inside its WAV header"),
    (stream_header(16000, 1, "f32"), "holds no samples"),
    (stream_header(16000, 1, "f32", 100) + bytes(40), r"promises 0.01 s \(100 frames\), it holds"),
    (stream_header(500, 1, "f32") + bytes(40), "500 Hz"),
])  # fmt: skip
def test_invalid_streams_are_rejected(data, message):
    with pytest.raises(InputError, match=message):
        drain(StreamSource(Trickle(data), "stdin"))


def test_wav_given_as_raw_is_rejected():
    data = stream_header(16000, 1, "f32") + bytes(400)
    with pytest.raises(InputError, match="is a WAV, not raw samples; leave out --rate"):
        drain(StreamSource(Trickle(data), "stdin", raw("f32")))


def test_s16_clips_instead_of_wrapping():
    pipe = io.BytesIO()
    sink = StreamSink(pipe, 16000, 1, "s16")
    sink.write(np.array([[1.5], [-1.5], [0.25]], np.float32))
    assert np.frombuffer(pipe.getvalue(), "<i2").tolist() == [32767, -32768, 8192]
    assert sink.clipped == 2


def test_header_modules_run_without_soundfile():
    """Only reading and writing files imports soundfile."""
    code = (
        "import sys; import rtmtass.io.wav_header, rtmtass.io.encodings, rtmtass.io.part_file;"
        "import rtmtass.signals;"
        "sys.exit('soundfile' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "subtype", "bits"),
    [
        ("wav", "PCM_U8", 8),
        ("wav", "PCM_16", 16),
        ("wav", "PCM_24", 24),
        ("wav", "PCM_32", 32),
        ("flac", "PCM_S8", 8),
        ("flac", "PCM_16", 16),
        ("flac", "PCM_24", 24),
    ],
)
def test_integers_are_rounded_so_that_stems_sum_to_their_mixture(tmp_path, name, subtype, bits):
    stems = (np.random.default_rng(0).standard_normal((3, 20000, 1)) * 0.05).astype(np.float32)
    read = []
    for k, stem in enumerate(stems):
        sink = FileSink(
            tmp_path / f"{k}.{name}", 16000, 1, Encoding(name, name.upper(), subtype), frames=20000
        )
        sink.write(stem)
        sink.publish()
        read.append(soundfile.read(tmp_path / f"{k}.{name}", always_2d=True)[0])
    steps = (np.array(read) - stems) * 2.0 ** (bits - 1)
    assert np.abs(steps).max() <= 0.5
    assert abs(steps.mean()) < 0.02
    assert np.abs(steps.sum(axis=0)).max() <= 1.5


def flac_without_length(path: Path, frames: int) -> Path:
    samples = 0.1 * np.sin(np.arange(frames) / 9)
    soundfile.write(path, samples, 44100, "PCM_16")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO's total samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125)])
@pytest.mark.parametrize("frames", [4096, 55125])
def test_a_flac_without_a_length_is_read_to_its_end(tmp_path, frames, tail):
    path = flac_without_length(tmp_path / "a.flac", frames)
    path.write_bytes(path.read_bytes() + tail)
    source = FileSource(path)
    assert source.frames is None
    source.close()
    assert read_file(path)[0].shape == (frames, 1)


def test_a_damaged_flac_without_a_length_is_refused(tmp_path):
    path = flac_without_length(tmp_path / "a.flac", 200_000)
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : third + third // 2] = bytes(third // 2)
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged or cut short"):
        read_file(path)


@pytest.mark.parametrize(
    ("bits", "width", "align"),
    [(16, 2, 0), (16, 2, 32), (8, 1, 16), (24, 3, 48), (24, 4, 8), (20, 4, 8), (12, 2, 4)],
)
@pytest.mark.parametrize("is_file", [True, False])
def test_the_container_width_is_that_of_the_samples(tmp_path, bits, width, align, is_file):
    """Stereo: a block alignment of 0 or in bits is ignored, padded samples are read as such."""
    steps = np.random.default_rng(0).integers(-100, 100, (500, 2))
    if width == 1:
        data = (steps + 128).astype(np.uint8).tobytes()
    else:
        shifted = (steps << (8 * width - 8)).astype("<i4")
        data = shifted.view(np.uint8).reshape(500, 2, 4)[:, :, :width].tobytes()
    fmt = struct.pack("<HHIIHH", 1, 2, 16000, 16000 * align, align, bits)
    chunks = b"WAVE" + struct.pack("<4sI", b"fmt ", 16) + fmt
    chunks += struct.pack("<4sI", b"data", len(data)) + data
    path = tmp_path / "a.wav"
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(chunks)) + chunks)
    source = open_source(path) if is_file else StreamSource(path.open("rb", buffering=0), "stdin")
    assert source.frames == 500
    block = np.zeros((500, 2), np.float32)
    assert source.read(block) == 500
    source.close()
    np.testing.assert_allclose(block, steps / 128, atol=1e-6)


def test_a_non_blocking_stream_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    samples = np.arange(64000, dtype=np.float32)[:, None] / 1e6

    def write():
        for part in np.array_split(samples, 10):
            time.sleep(0.01)
            os.write(writer, part.tobytes())
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    source = StreamSource(
        os.fdopen(reader, "rb", buffering=0), "stdin", WavHeader(16000, 1, "f32", None, 0, 4)
    )
    blocks = []
    block = np.zeros((5000, 1), np.float32)
    while count := source.read(block):
        blocks.append(block[:count].copy())
    thread.join()
    source.close()
    assert np.array_equal(np.concatenate(blocks), samples)


def test_a_second_run_on_the_same_output_is_refused_and_damages_nothing(tmp_path):
    first = FileSink(tmp_path / "a.wav", 16000, 1, FLOAT_WAV)
    first.write(noise(1000))
    with pytest.raises(OutputError, match=r"a\.wav is being written by another run; wait for it"):
        FileSink(tmp_path / "a.wav", 16000, 1, FLOAT_WAV)
    first.write(noise(1000))
    first.publish()
    assert soundfile.info(tmp_path / "a.wav").frames == 2000
    again = FileSink(tmp_path / "a.wav", 16000, 1, FLOAT_WAV)
    again.abandon()
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("value", [1e10, -1e19, 3e38])
def test_absurd_samples_are_refused_as_nan_is(value):
    block = np.zeros((100, 2), np.float32)
    block[40, 1] = value
    with pytest.raises(
        InputError, match=r"x contains a sample of .*\(full scale is 1\) at 0.003 s"
    ):
        check_finite(block, 0, 16000, "x")
    check_finite(np.full((10, 2), 1e9, np.float32), 0, 16000, "x")
