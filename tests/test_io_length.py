"""Sound files are read to their real end, whatever their headers say."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtmtass.errors import InputError
from rtmtass.io.byte_ranges import ByteRanges
from rtmtass.io.files import FileSource
from rtmtass.io.mpeg_frames import follow_frames, parse_frame_header
from rtmtass.io.pipes import StreamSource, open_source
from rtmtass.io.wav_tail import TailGuard
from rtmtass.types import Samples

RATE = 44100
ID3 = b"ID3\x03\0\0\0\0\x02\0" + bytes(256)
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 52, 1, 0) + b"\xff\xfb" * 10


def tone(frames: int, channels: int = 1) -> Samples:
    """A tone that fades out, so that a variable bit rate falls."""
    x = np.sin(np.arange(frames) / 9) * np.linspace(0.5, 0, frames) ** 3
    x += np.random.default_rng(0).standard_normal(frames) * np.linspace(0.2, 0, frames) ** 2
    return np.repeat(x[:, None], channels, axis=1).astype(np.float32)


def encoded(container: str, subtype: str, frames: int = RATE, *, rate=RATE, channels=1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(frames, channels), rate, subtype, format=container)
    return file.getvalue()


def mp3(**options) -> bytes:
    return encoded("MP3", "MPEG_LAYER_III", **options)


def without_xing(data: bytes) -> bytes:
    header = parse_frame_header(data)
    assert header is not None
    assert data[36:40] in (b"Xing", b"Info") or data[21:25] in (b"Xing", b"Info")
    return data[header.n_bytes :]


def with_xing_frames(data: bytes, extra: int) -> bytes:
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    (frames,) = struct.unpack_from(">I", data, at)
    return data[:at] + struct.pack(">I", frames + extra) + data[at + 4 :]


def with_total(data: bytes, total: int) -> bytes:
    """A FLAC with another length in its STREAMINFO."""
    head = bytes([data[21] & 0xF0 | total >> 32]) + struct.pack(">I", total & 0xFFFFFFFF)
    return data[:21] + head + data[26:]


def written(folder: Path, data: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(
    path: Path, size: int = 5000, *, allow_truncated: bool = False
) -> tuple[int | None, Samples]:
    """Return the length that is known beforehand, and the samples."""
    blocks = []
    with contextlib.closing(open_source(path, allow_truncated=allow_truncated)) as source:
        block = np.zeros((size, source.channels), np.float32)
        while count := source.read(block):
            blocks.append(block[:count].copy())
    return source.frames, np.concatenate(blocks)


# --- MPEG audio


@pytest.mark.parametrize(("frames", "channels"), [(1, 1), (1152, 2), (30000, 1), (RATE, 2)])
@pytest.mark.parametrize("rate", [RATE, 16000])
def test_an_mp3_has_the_length_of_what_was_encoded(tmp_path, rate, frames, channels):
    data = mp3(frames=frames, rate=rate, channels=channels)
    length, samples = read(written(tmp_path, data, "a.mp3"))
    assert (length, samples.shape) == (frames, (frames, channels))
    whole = soundfile.read(io.BytesIO(data), always_2d=True)[0]
    np.testing.assert_allclose(samples, whole, atol=1e-5)


def test_the_first_block_of_an_mp3_is_full(tmp_path):
    with contextlib.closing(open_source(written(tmp_path, mp3(), "a.mp3"))) as source:
        assert source.read(np.zeros((500, 1), np.float32)) == 500


@pytest.mark.parametrize("size", [100, 1000, 4096])
def test_an_mp3_read_in_blocks_has_no_clicks(tmp_path, size):
    path = written(tmp_path, mp3(frames=20000, rate=8000), "a.mp3")
    np.testing.assert_allclose(read(path, size)[1], read(path, 20000)[1], atol=1e-6)


@pytest.mark.parametrize("front", [b"", ID3, b"\0" * 500])
@pytest.mark.parametrize("tail", [b"", ID3V1, APE + ID3V1, b"\0" * 3000, b"no sound " * 300])
def test_an_mp3_without_a_length_is_read_to_its_end(tmp_path, front, tail):
    """Of a variable bit rate, libsndfile estimates a length and stops there."""
    data = without_xing(mp3(frames=3 * RATE))
    length, samples = read(written(tmp_path, front + data + tail, "a.mp3"))
    assert length == len(samples)
    assert length % 1152 == 0
    assert 3 * RATE < length < 3 * RATE + 4 * 1152


def test_an_mp3_behind_an_id3_tag_with_a_footer_is_read(tmp_path):
    data = mp3()
    tag = b"ID3\x04\0\x10\0\0\x02\0" + bytes(256) + b"3DI\x04\0\x10\0\0\x02\0"
    samples = read(written(tmp_path, tag + data, "a.mp3"))[1]
    np.testing.assert_array_equal(samples, read(written(tmp_path, data, "b.mp3"))[1])


@pytest.mark.parametrize("between", [b"", ID3, ID3V1, ID3V1 + ID3, b"junk" * 50])
@pytest.mark.parametrize("count", [2, 3])
def test_joined_mp3s_are_read_to_the_end_of_the_last(tmp_path, between, count):
    data = mp3()
    length, samples = read(written(tmp_path, between.join([data] * count), "a.mp3"))
    assert length == len(samples)
    assert count * RATE <= length <= count * (RATE + 3 * 1152)
    first = read(written(tmp_path, data, "b.mp3"))[1]
    np.testing.assert_allclose(samples[: RATE - 1152], first[: RATE - 1152], atol=1e-5)


@pytest.mark.parametrize("extra", [-30, -1])
def test_an_mp3_longer_than_its_header_says_is_read_to_its_end(tmp_path, extra):
    length, samples = read(written(tmp_path, with_xing_frames(mp3(), extra), "a.mp3"))
    assert RATE <= len(samples) <= RATE + 2 * 1152
    assert length == len(samples)


def test_an_mp3_shorter_than_its_header_says_is_refused(tmp_path):
    path = written(tmp_path, with_xing_frames(mp3(), 30), "a.mp3")
    with pytest.raises(InputError, match=r"promises 1\.7\d s \(\d+ frames\), it holds 1\.0\d s"):
        open_source(path)
    assert len(read(path, allow_truncated=True)[1]) >= RATE


@pytest.mark.parametrize("second", [{"rate": 48000}, {"channels": 2}])
def test_joined_mp3s_that_do_not_match_are_refused(tmp_path, second):
    path = written(tmp_path, mp3() + mp3(**second), "a.mp3")
    with pytest.raises(InputError, match=r"changes from 44100 Hz, 1 channel\(s\), to"):
        open_source(path)


def test_mpeg_frames_of_all_layers_have_their_length():
    for data, n_bytes, kind in [
        (b"\xff\xfb\x90\x00", 417, (1, 3, 44100, 2)),  # 128 kbit/s: 144 * 128000 / 44100
        (b"\xff\xfd\xa4\x00", 576, (1, 2, 48000, 2)),  # 192 kbit/s
        (b"\xff\xff\xc4\xc0", 384, (1, 1, 48000, 1)),  # 384 kbit/s
        (b"\xff\xe3\x48\xc0", 288, (25, 3, 8000, 1)),  # 32 kbit/s
    ]:
        header = parse_frame_header(data)
        assert header is not None
        assert (header.n_bytes, header.kind) == (n_bytes, kind)
    assert parse_frame_header(b"\xff\xf1\x50\x80") is None  # AAC
    assert follow_frames(io.BytesIO(b"\xff\xfb" * 5000), "x") is None


# --- Ogg


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", RATE), ("OPUS", 48000)])
@pytest.mark.parametrize("between", [b"", b"junk" * 20])
def test_chained_oggs_are_read_link_by_link(tmp_path, subtype, rate, between):
    links = [encoded("OGG", subtype, n, rate=rate, channels=2) for n in (rate, 5000, 20000)]
    length, samples = read(written(tmp_path, between.join(links), "a.ogg"))
    assert length == rate + 25000
    whole = [soundfile.read(io.BytesIO(link), always_2d=True)[0] for link in links]
    np.testing.assert_allclose(samples, np.concatenate(whole), atol=1e-6)


@pytest.mark.parametrize("second", [{"rate": 48000}, {"channels": 2}])
def test_chained_oggs_that_do_not_match_are_refused(tmp_path, second):
    data = encoded("OGG", "VORBIS") + encoded("OGG", "VORBIS", **second)
    with pytest.raises(InputError, match="consists of streams that don't match"):
        open_source(written(tmp_path, data, "a.ogg"))


def test_an_ogg_cut_within_a_page_is_refused_unless_allowed(tmp_path):
    data = encoded("OGG", "VORBIS", 4 * RATE)
    path = written(tmp_path, data[: len(data) * 3 // 4], "a.ogg")
    with pytest.raises(InputError, match="cut short: it ends within a page"):
        read(path)
    assert len(read(path, allow_truncated=True)[1]) > RATE


# --- FLAC


@pytest.mark.parametrize("total", [0, 1, 40000])
@pytest.mark.parametrize("tail", [b"", ID3V1])
def test_a_flac_longer_than_its_header_says_is_read_to_its_end(tmp_path, total, tail):
    data = encoded("FLAC", "PCM_16", 50000)
    length, samples = read(written(tmp_path, with_total(data, total) + tail, "a.flac"))
    assert length is None
    np.testing.assert_array_equal(samples, read(written(tmp_path, data, "b.flac"))[1])


def test_a_flac_shorter_than_its_header_says_is_refused(tmp_path):
    path = written(tmp_path, with_total(encoded("FLAC", "PCM_16", 50000), 60000), "a.flac")
    with pytest.raises(InputError, match=r"\(60000 frames\), it holds 1.13 s \(50000\)"):
        read(path)
    assert len(read(path, allow_truncated=True)[1]) == 50000


@pytest.mark.parametrize("frames", [1, 4096, 4097, 600_000])
@pytest.mark.parametrize("front", [b"", ID3])
def test_the_length_of_an_honest_flac_is_known(tmp_path, frames, front):
    data = front + encoded("FLAC", "PCM_24", frames, channels=2) + ID3V1
    length, samples = read(written(tmp_path, data, "a.flac"), 100_000)
    assert length == len(samples) == frames


@pytest.mark.parametrize("is_known", [True, False])
def test_joined_flacs_are_read_to_the_end_of_the_last(tmp_path, is_known):
    data = encoded("FLAC", "PCM_16", 50000)
    joined = data + (data if is_known else with_total(data, 0))
    length, samples = read(written(tmp_path, joined, "a.flac"))
    assert len(samples) == 100_000
    assert length == (100_000 if is_known else None)


# --- AIFF, AU, W64, VOC


@pytest.mark.parametrize(
    ("name", "container"), [("a.aiff", "AIFF"), ("a.au", "AU"), ("a.w64", "W64"), ("a.sph", "NIST")]
)
def test_a_file_cut_short_is_refused_with_its_length(tmp_path, name, container):
    data = encoded(container, "PCM_16", 20000)
    path = written(tmp_path, data[: len(data) - 20000], name)
    with pytest.raises(InputError, match=r"promises 0\.45 s .*, it holds 0\.2. s"):
        open_source(path)
    assert abs(len(read(path, allow_truncated=True)[1]) - 10000) < 50


def extensible_w64(encoding: int, bits: int, data: bytes, channels: int = 2) -> bytes:
    suffix = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    align = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 0xFFFE, channels, RATE, RATE * align, align, bits)
    fmt += struct.pack("<HHIH", 22, bits, 3, encoding) + bytes.fromhex(
        "000000001000800000aa00389b71"
    )
    body = b"wave" + suffix + b"fmt " + suffix + struct.pack("<Q", 24 + len(fmt)) + fmt
    body += b"data" + suffix + struct.pack("<Q", 24 + len(data)) + data
    head = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
    return head + struct.pack("<Q", len(head) + 8 + len(body)) + body


@pytest.mark.parametrize(
    ("encoding", "dtype", "scale"),
    [(1, "<i2", 32768), (1, "<i4", 2**31), (3, "<f4", 1), (3, "<f8", 1)],
)
def test_an_extensible_w64_is_read_in_its_encoding(tmp_path, encoding, dtype, scale):
    """libsndfile 1.2.2 takes its floats for integers."""
    x = tone(3000, 2).astype("f8")
    data = extensible_w64(
        encoding, 8 * np.dtype(dtype).itemsize, (x * scale).astype(dtype).tobytes()
    )
    length, samples = read(written(tmp_path, data, "a.w64"))
    assert length == 3000
    np.testing.assert_allclose(samples, x, atol=1e-4)


def test_a_logarithmic_extensible_w64_is_read(tmp_path):
    x = tone(3000, 2)
    file = io.BytesIO()
    soundfile.write(file, x, RATE, "ULAW", format="AU")
    data = extensible_w64(7, 8, file.getvalue()[-6000:])
    np.testing.assert_allclose(read(written(tmp_path, data, "a.w64"))[1], x, atol=0.02)


def test_a_voc_of_several_blocks_is_refused(tmp_path):
    data = encoded("VOC", "PCM_16", 3000)
    assert len(read(written(tmp_path, data, "a.voc"))[1]) == 3000
    block = b"\x02" + (500).to_bytes(3, "little") + bytes(500)
    with pytest.raises(InputError, match="is a VOC of several blocks"):
        open_source(written(tmp_path, data.removesuffix(b"\0") + block + b"\0", "b.voc"))


@pytest.mark.parametrize("suffix", ["au", "snd", "gsm", "vox", "raw", "mp3", "flac", "wav", "sph"])
def test_text_named_as_sound_is_refused(tmp_path, suffix):
    path = written(tmp_path, b"Lorem ipsum dolor sit amet\n" * 1000, f"a.{suffix}")
    with pytest.raises(InputError, match="is not audio"):
        open_source(path)


# --- WAV


def wav(
    size: int, data: bytes, *, front: bytes = b"", channels: int = 2, rate: int = 16000
) -> bytes:
    width = 2 * channels
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * width % 2**32, width % 2**16, 16)
    return (
        b"RIFF\xff\xff\xff\xffWAVE" + front + b"fmt " + struct.pack("<I", 16) + fmt
        + b"data" + struct.pack("<I", size) + data
    )  # fmt: skip


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def steps(frames: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-20000, 20000, (frames, 2)).astype("<i2")


def piped(data: bytes, step: int, **options) -> Samples:
    class Pipe(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, step))

    source = StreamSource(Pipe(data), "stdin", **options)
    block, blocks = np.zeros((700, source.channels), np.float32), []
    while count := source.read(block):
        blocks.append(block[:count].copy())
    return np.concatenate(blocks)


INFO = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"an encoder"))
TAILS = {
    "none": b"",
    "list": INFO,
    "odd": chunk(b"id3 ", b"x" * 33),
    "odd without padding": chunk(b"bext", b"x" * 33)[:-1],
    "several": INFO + chunk(b"cue ", bytes(28)) + chunk(b"id3 ", b"y" * 7),
    "large": chunk(b"id3 ", np.random.default_rng(2).bytes(300_000)),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000])
def test_chunks_behind_sound_of_unknown_length_are_not_heard(tmp_path, size, tail):
    x = steps(3000)
    data = wav(size, x.tobytes() + tail)
    length, samples = read(written(tmp_path, data, "a.wav"))
    assert length == 3000
    np.testing.assert_array_equal(samples * 32768, x)
    for step in (11, 4096, 1 << 20):
        if step * 2000 > len(data):
            np.testing.assert_array_equal(piped(data, step) * 32768, x)


@pytest.mark.parametrize("size", [2000, 2002, 8])
@pytest.mark.parametrize("tail", ["none", "list", "odd"])
def test_a_size_that_has_wrapped_is_not_believed(tmp_path, size, tail):
    """Past 4 GiB the size begins at 0 again; the bytes behind it are no chunks."""
    x = steps(3000)
    data = wav(size, x.tobytes() + TAILS[tail])
    np.testing.assert_array_equal(read(written(tmp_path, data, "a.wav"))[1] * 32768, x)
    np.testing.assert_array_equal(piped(data, 4096) * 32768, x)


@pytest.mark.parametrize("tail", [INFO, ID3V1, ID3, bytes(512), b"odd"])
def test_what_is_behind_sound_of_known_length_is_not_heard(tmp_path, tail):
    x = steps(3000)
    data = wav(12000, x.tobytes() + tail)
    assert len(read(written(tmp_path, data, "a.wav"))[1]) == 3000
    np.testing.assert_array_equal(piped(data, 4096) * 32768, x)


def test_a_chunk_behind_an_odd_number_of_bytes_needs_no_padding(tmp_path):
    x = steps(3000)
    data = wav(12001, x.tobytes() + b"\x01" + INFO)
    np.testing.assert_array_equal(read(written(tmp_path, data, "a.wav"))[1] * 32768, x)
    np.testing.assert_array_equal(piped(data, 4096) * 32768, x)


@pytest.mark.parametrize("long_size", [2**64 - 1, 2**63 - 1, 2**63, 0, 12000])
@pytest.mark.parametrize("size", [0xFFFFFFFF, 12000])
def test_an_rf64_with_a_placeholder_for_its_size_is_read_to_its_end(tmp_path, long_size, size):
    x = steps(3000)
    sizes = chunk(b"ds64", struct.pack("<QQQI", 2**64 - 1, long_size, 0, 0))
    data = b"RF64" + wav(size, x.tobytes() + INFO, front=sizes)[4:]
    length, samples = read(written(tmp_path, data, "a.wav"))
    assert length == 3000
    np.testing.assert_array_equal(samples * 32768, x)
    np.testing.assert_array_equal(piped(data, 4096) * 32768, x)


@pytest.mark.parametrize("blocks", [3, 4])
@pytest.mark.parametrize("tail", ["none", "list"])
def test_the_padding_of_a_gsm_wav_is_not_heard(tmp_path, blocks, tail):
    """libsndfile decodes the one byte behind an odd number of blocks as a block of its own."""
    fmt = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, 65, 0, 2, 320)
    body = chunk(b"fmt ", fmt) + chunk(b"data", b"\xd2\x35" * 32 * blocks + b"\0" * blocks)
    body += TAILS[tail]
    data = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
    length, samples = read(written(tmp_path, data, "a.wav"))
    assert length == len(samples) == 320 * blocks
    with pytest.raises(InputError, match="cut short"):
        read(written(tmp_path, data[: -len(TAILS[tail]) - 66], "b.wav"))


@pytest.mark.parametrize("step", [1, 3, 50, 10_000])
def test_sound_that_looks_like_a_chunk_is_not_lost(step):
    random = np.random.default_rng(3).bytes
    data = b"LI" + random(501) + b"LIST\x10\0\0\0" + random(100) + b"id3 LIST" + random(30) + b"LIS"
    guard = TailGuard()
    sound = b"".join(guard.feed(data[i : i + step]) for i in range(0, len(data), step))
    assert sound + guard.finish() == data
    tail = INFO + chunk(b"id3 ", b"LIST" * 9)
    guard, data = TailGuard(), data + b"\0" * (len(data) % 2)
    parts = [guard.feed((data + tail)[i : i + step]) for i in range(0, len(data + tail), step)]
    assert b"".join(parts) + guard.finish() == data


def test_a_large_chunk_before_the_samples_is_passed_over(tmp_path):
    path = tmp_path / "a.wav"
    x = steps(1000)
    size = 0xFFFFFFF0
    rest = wav(4000, x.tobytes())[12:]
    with path.open("wb") as file:  # sparse: it takes no space on the disk
        file.write(b"RIFF\xff\xff\xff\xffWAVEJUNK" + struct.pack("<I", size))
        file.seek(size, io.SEEK_CUR)
        file.write(rest)
    np.testing.assert_array_equal(read(path)[1] * 32768, x)
    path.unlink()
    front = chunk(b"JUNK", bytes(30_000_000))
    np.testing.assert_array_equal(piped(wav(4000, x.tobytes(), front=front), 1 << 16) * 32768, x)


def test_a_wav_beyond_4_gib_is_read_to_its_end(tmp_path):
    """Written by a program that knows no 64-bit sizes; silence is no padding here."""
    path = written(tmp_path, wav(1000, bytes(1000)), "a.wav")
    with path.open("r+b") as file:
        file.truncate(44 + 1000 + 2**32)  # sparse
    with contextlib.closing(open_source(path)) as source:
        assert source.frames == (1000 + 2**32) // 4
    path.unlink()


def test_a_bw64_is_read(tmp_path):
    """The successor of RF64, which libsndfile 1.2.2 doesn't read."""
    x = steps(3000)
    sizes = chunk(b"ds64", struct.pack("<QQQI", 12080, 12000, 3000, 0))
    data = b"BW64" + wav(0xFFFFFFFF, x.tobytes() + INFO, front=sizes)[4:]
    np.testing.assert_array_equal(read(written(tmp_path, data, "a.wav"))[1] * 32768, x)
    np.testing.assert_array_equal(piped(data, 4096) * 32768, x)


@pytest.mark.parametrize("size", [0, 4, 8, 15])
def test_a_short_ds64_chunk_leaves_the_length_unknown(tmp_path, size):
    x = steps(1000)
    data = b"RF64" + wav(0xFFFFFFFF, x.tobytes(), front=chunk(b"ds64", bytes(size)))[4:]
    np.testing.assert_array_equal(read(written(tmp_path, data, "a.wav"))[1] * 32768, x)
    np.testing.assert_array_equal(piped(data, 4096) * 32768, x)


@pytest.mark.parametrize(("channels", "rate"), [(65535, 16000), (1024, 384_000), (200, 96000)])
def test_absurd_formats_are_refused_in_one_line(tmp_path, channels, rate):
    data = wav(0xFFFFFFFF, bytes(200_000), channels=channels, rate=rate)
    supported = f"rtmtass supports {64 * 192_000 // rate} at this rate"
    with pytest.raises(InputError, match=rf"has {channels} channels at {rate} Hz; {supported}"):
        piped(data, 4096)
    with pytest.raises(InputError, match=supported):
        open_source(written(tmp_path, data, "a.wav"))


# --- views


def test_byte_ranges_read_as_one_file():
    data = bytes(range(200))
    view = ByteRanges(
        io.BytesIO(data),
        [(10, 20), (30, 35), (100, 101)],
        claimed_size=5000,
        patches=[(8, b"abcd")],
    )
    expected = data[10:18] + b"abcd" + data[32:35] + data[100:101]
    for step in (1, 3, 100):
        view.seek(0)
        assert b"".join(view.read(step) for _ in range(len(expected))) == expected
    assert view.seek(0, io.SEEK_END) == 5000
    assert view.seek(-128, io.SEEK_END) == 4872
    assert view.read(3) == bytes(3)
    buffer = bytearray(4)
    view.seek(7)
    assert view.readinto(memoryview(buffer)) == 4
    assert bytes(buffer) == expected[7:11]
    assert view.unread == 5


def test_no_samples_at_all_are_refused(tmp_path):
    """Written out, they would be files that can't be opened."""
    for name, data in {
        "a.flac": encoded("FLAC", "PCM_16", 50000)[:120],
        "a.ogg": encoded("OGG", "VORBIS", 50000)[:4000],
        "a.wav": wav(4000, b""),
    }.items():
        path = written(tmp_path, data, name)
        with pytest.raises(InputError):
            read(path, allow_truncated=True)


def test_the_tags_of_joined_mp3s_are_kept(tmp_path):
    path = tmp_path / "a.mp3"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.title = "Talk"
        file.write(tone(RATE))
    path.write_bytes(mp3() + path.read_bytes())
    source = FileSource(path)
    assert source.tags == {"title": "Talk"}
    assert source.frames is not None
    assert source.frames > 2 * RATE - 1
    source.close()
