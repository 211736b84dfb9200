"""Metadata: what an input holds is in its stems, as far as their format can hold it."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

from rtmtass.io.encodings import Encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.io.tags import id3, ogg, riff, vorbis
from rtmtass.io.tags.model import MAX_BYTES, MAX_FIELDS, MAX_TOTAL, Id3Tag, Metadata, Picture
from rtmtass.io.tags.positions import excerpt
from rtmtass.io.tags.reader import read_metadata
from rtmtass.offline.plan import SeparateOptions, plan
from rtmtass.offline.separate import NullProgress, separate_file

RATE = 48000
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ENCODINGS = {
    "wav": Encoding("wav", "WAV", "PCM_16"),
    "flac": Encoding("flac", "FLAC", "PCM_16"),
    "ogg": Encoding("ogg", "OGG", "VORBIS"),
    "opus": Encoding("opus", "OGG", "OPUS"),
    "mp3": Encoding("mp3", "MP3", "MPEG_LAYER_III"),
}
USUAL = (
    ("TITLE", "Käse 日本"), ("ARTIST", "Ü"), ("ALBUMARTIST", "AA"), ("TRACKNUMBER", "3"),
    ("TRACKTOTAL", "12"), ("DISCNUMBER", "2"), ("ISRC", "DEX012600001"), ("DATE", "2026-01-02"),
    ("COMMENT", "two\nlines"), ("Interviewer", "own field"),
)  # fmt: skip
COVER = Picture(PNG, "image/png", 3, "für vorn")
needs_ffprobe = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")


def noise(n, channels=1):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def wav(path, *before, behind=(), speakers=None, channels=2, frames=9600):
    """Write a WAV of 16 bits with chunks before and behind its samples."""
    tag = 1 if speakers is None else 0xFFFE
    fmt = struct.pack("<HHIIHH", tag, channels, RATE, RATE * 2 * channels, 2 * channels, 16)
    if speakers is not None:
        subformat = bytes.fromhex("0100000000001000800000aa00389b71")
        fmt += struct.pack("<HHI", 22, 16, speakers) + subformat
    data = (noise(frames, channels) * 32768).astype("<i2").tobytes()
    chunks = [chunk(b"fmt ", fmt), *before, chunk(b"data", data), *behind]
    body = b"WAVE" + b"".join(chunks)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def chunks_of(path):
    data = path.read_bytes()
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    at, found = 12, {}
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        found[name + data[at + 8 : at + 12] if name == b"LIST" else name] = data[
            at + 8 : at + 8 + size
        ]
        at += 8 + size + size % 2
    assert at == len(data)
    return found


def separate(path, **keywords):
    options = SeparateOptions(stems=("speech",), **keywords)
    (job,) = plan([path], options)
    return separate_file(job, options, FakeSeparator, NullProgress()).outputs["speech"]


def tagged(path, metadata, channels=1):
    """Write a tenth of a second with metadata, in the format of the suffix."""
    sink = FileSink(path, RATE, channels, ENCODINGS[path.suffix[1:]], metadata=metadata)
    sink.write(noise(4800, channels))
    sink.publish()
    return path


def bext(*, time=172800000, version=1):
    texts = struct.pack("<256s32s32s10s8s", b"In the yard", b"RECORDER", b"REF001",
                        b"2026-01-02", b"10:11:12")  # fmt: skip
    loudness = struct.pack("<5h", -2300, 500, -100, -2000, -2100)
    return texts + struct.pack("<QH64s", time, version, b"UMID") + loudness + bytes(180) + b"A=PCM"


def cue(*points):
    packed = [struct.pack("<II4s3I", i, p, b"data", 0, 0, p) for i, p in enumerate(points, 1)]
    return struct.pack("<I", len(points)) + b"".join(packed)


def adtl(*names):
    labels = [chunk(b"labl", struct.pack("<I", i) + n + b"\0") for i, n in enumerate(names, 1)]
    return b"adtl" + b"".join(labels)


def ixml(time):
    return (
        b"<BWFXML><SPEED><TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>%d</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_"
        b"HI><TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>%d</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO></SPEED>"
        b"</BWFXML>" % (time >> 32, time & 0xFFFFFFFF)
    )


@pytest.mark.parametrize("speakers", [0x33, 0x107, 0xF, 0, 0x603])
def test_speaker_positions_are_those_of_the_input(tmp_path, speakers):
    path = separate(wav(tmp_path / "a.wav", speakers=speakers, channels=4))
    fmt = chunks_of(path)[b"fmt "]
    assert (fmt[:2], struct.unpack_from("<I", fmt, 20)[0]) == (b"\xfe\xff", speakers)
    assert soundfile.info(path).frames == 9600
    assert read_metadata(separate(path, format="flac", folder=tmp_path)).speakers == speakers


def test_speaker_positions_are_not_claimed_for_a_downmix(tmp_path):
    path = separate(wav(tmp_path / "a.wav", speakers=0x33, channels=4), channels="mono")
    assert chunks_of(path)[b"fmt "][:2] == b"\1\0"


def test_a_wav_of_unknown_length_keeps_its_speaker_positions(tmp_path):
    sink = FileSink(
        tmp_path / "a.wav", RATE, 4, ENCODINGS["wav"], metadata=Metadata(speakers=0x107)
    )
    sink.write(noise(100, 4))
    sink.publish()
    assert struct.unpack_from("<I", chunks_of(tmp_path / "a.wav")[b"fmt "], 20)[0] == 0x107


def test_a_surround_flac_becomes_a_wav_with_its_speakers(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(9600, 6), RATE)
    assert read_metadata(separate(tmp_path / "a.flac", format="wav")).speakers == 0x60F


@pytest.mark.parametrize("is_behind", [False, True])
def test_broadcast_chunks_and_markers_are_kept_as_they_were(tmp_path, is_behind):
    chunks = {b"bext": bext(), b"iXML": ixml(7), b"cue ": cue(100, 9000), b"LISTadtl": adtl(b"a")}
    packed = [chunk(name[:4], body) for name, body in chunks.items()]
    before, behind = ([], packed) if is_behind else (packed, [])
    found = chunks_of(separate(wav(tmp_path / "a.wav", *before, behind=behind)))
    assert {name: found.get(name) for name in chunks} == chunks


def test_loudness_of_the_input_is_not_claimed_for_a_stem(tmp_path):
    path = separate(wav(tmp_path / "a.wav", chunk(b"bext", bext(version=2))))
    body = chunks_of(path)[b"bext"]
    assert struct.unpack_from("<5H", body, 412) == (0x7FFF,) * 5
    assert body[:412] + body[422:] == bext(version=2)[:412] + bext(version=2)[422:]


def test_fields_of_a_broadcast_wav_are_named_in_a_flac(tmp_path):
    path = separate(wav(tmp_path / "a.wav", chunk(b"bext", bext())), format="flac")
    fields = dict(read_metadata(path).comments)
    assert fields["DESCRIPTION"] == "In the yard"
    assert (fields["TIME_REFERENCE"], fields["ORIGINATION_DATE"]) == ("172800000", "2026-01-02")


def test_info_of_any_encoding_is_kept_as_it_was_and_read_right(tmp_path):
    entries = b"INFO" + chunk(b"INAM", "Café über".encode("cp1252") + b"\0")
    source = wav(tmp_path / "a.wav", chunk(b"LIST", entries + chunk(b"ISFT", b"Recorder\0")))
    found = chunks_of(separate(source))[b"LISTINFO"]
    assert found.startswith(entries)
    assert b"Recorder" not in found
    for suffix in ("flac", "mp3", "ogg"):
        path = separate(source, format=suffix)
        assert dict(read_metadata(path).comments) == {"TITLE": "Café über"}


@pytest.mark.parametrize("suffix", ENCODINGS)
@pytest.mark.parametrize("source", ENCODINGS)
def test_fields_and_covers_pass_from_any_format_to_any(tmp_path, source, suffix):
    path = tagged(tmp_path / f"a.{source}", Metadata(USUAL, (COVER,)))
    found = read_metadata(separate(path, format=suffix, folder=tmp_path / "out"))
    pairs = {(name.upper(), text) for name, text in found.comments}
    expected = {(name.upper(), text) for name, text in USUAL}
    if "3/12" in dict(found.comments).get("TRACKNUMBER", ""):
        expected = (expected - {("TRACKNUMBER", "3")}) | {("TRACKNUMBER", "3/12")}
    assert expected <= pairs
    assert found.pictures == (COVER,)


@pytest.mark.parametrize("suffix", ENCODINGS)
def test_metadata_changes_no_sample_and_is_no_hindrance_to_readers(tmp_path, suffix):
    plain = tagged(tmp_path / f"a.{suffix}", Metadata(), 2)
    full = tagged(
        tmp_path / f"b.{suffix}", Metadata(USUAL, (Picture(bytes(300_001), "image/x"),)), 2
    )
    assert full.stat().st_size > 300_000
    np.testing.assert_array_equal(soundfile.read(full)[0], soundfile.read(plain)[0])
    with soundfile.SoundFile(full) as file:
        assert (file.title, file.artist) == ("Käse 日本", "Ü") or suffix == "mp3"


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
@pytest.mark.parametrize("size", [0, 200, 65025 - 200, 200_000])
def test_ogg_pages_are_numbered_and_have_their_checksums(tmp_path, suffix, size):
    path = tagged(tmp_path / f"a.{suffix}", Metadata((("COMMENT", "x" * size), ("TITLE", "t"))))
    data = path.read_bytes()
    pages: list[ogg.Page] = []
    while data:
        page = ogg.parse_page(data)
        assert page is not None
        packed = page.pack()
        assert data.startswith(packed)
        pages.append(page)
        data = data[len(packed) :]
    assert [page.number for page in pages] == list(range(len(pages)))
    assert len(pages) >= 3 + size // 65025
    assert dict(read_metadata(path).comments)["TITLE"] == "t"


def mp3_with(path, tag):
    path.write_bytes(tag + tagged(path.with_name("plain.mp3"), Metadata()).read_bytes())
    return path


def frame(name, body, version=4):
    size = bytes(len(body) >> s & 127 for s in (21, 14, 7, 0))
    return name + (size if version == 4 else struct.pack(">I", len(body))) + b"\0\0" + body


def id3_tag(version, body, flags=0):
    size = bytes(len(body) >> s & 127 for s in (21, 14, 7, 0))
    return b"ID3" + bytes([version, 0, flags]) + size + body


@pytest.mark.parametrize("track", ["3/12", "3", "03/012", "A/b"])
def test_a_track_number_of_any_form_leaves_other_fields_alone(tmp_path, track):
    tag = frame(b"TRCK", b"\3" + track.encode()) + frame(b"TIT2", b"\3" + "Käse 日本".encode())
    path = separate(mp3_with(tmp_path / "a.mp3", id3_tag(4, tag + bytes(200))))
    head, size = path.read_bytes()[:10], id3.tag_size(path.read_bytes())
    assert head[:6] == b"ID3\4\0\0"
    assert path.read_bytes()[: 10 + size].endswith(tag)


def test_id3_of_every_version_is_read(tmp_path):
    wide = b"\1" + "Käse 日本".encode("utf-16")
    stuffed = wide.replace(b"\xff", b"\xff\0")
    image = b"\0image/png\0\3\0" + PNG
    v22 = b"TT2" + len(wide).to_bytes(3, "big") + wide
    v22 += b"PIC" + (6 + len(PNG)).to_bytes(3, "big") + b"\0PNG\3\0" + PNG
    v23 = frame(b"TIT2", wide, 3) + frame(b"APIC", image, 3)
    v24 = b"TIT2" + struct.pack(">IH", len(stuffed), 2) + stuffed + frame(b"APIC", image)
    tags = [
        id3_tag(2, v22),
        id3_tag(3, v23),
        id3_tag(3, v23.replace(b"\xff\0", b"\xff\0\0").replace(b"\xff\xfe", b"\xff\0\xfe"), 0x80),
        id3_tag(4, v24),
    ]
    for tag in tags:
        found = read_metadata(mp3_with(tmp_path / "a.mp3", tag))
        assert found.comments == (("TITLE", "Käse 日本"),)
        assert [p.data for p in found.pictures] == [PNG]


def test_id3v1_is_read_where_there_is_nothing_better(tmp_path):
    tail = struct.pack("3s30s30s30s4s28sBBB", b"TAG", "Café".encode("cp1252"), b"A", b"B", b"2026",
                       b"c", 0, 7, 255)  # fmt: skip
    path = tagged(tmp_path / "a.mp3", Metadata())
    path.write_bytes(path.read_bytes() + tail)
    fields = dict(read_metadata(separate(path)).comments)
    assert (fields["TITLE"], fields["TRACKNUMBER"]) == ("Café", "7")


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_fields_about_the_encoder_or_the_level_are_dropped(tmp_path, suffix):
    dropped = (("ENCODER", "x"), ("REPLAYGAIN_TRACK_GAIN", "-7 dB"), ("R128_TRACK_GAIN", "3"))
    path = tagged(tmp_path / f"a.{suffix}", Metadata((*dropped, ("TITLE", "t"))))
    assert read_metadata(separate(path)).comments == (("TITLE", "t"),)


def test_several_fields_of_one_name_stay_several(tmp_path):
    metadata = Metadata((("ARTIST", "A"), ("ARTIST", "B")))
    for suffix in ("flac", "mp3", "wav"):
        path = tagged(tmp_path / f"a.{suffix}", metadata)
        assert read_metadata(path).comments == metadata.comments


def test_other_programs_names_of_fields_are_understood(tmp_path):
    fields = (("album_artist", "AA"), ("Track", "3"), ("disc", "2"), ("DESCRIPTION", "d"))
    path = tagged(tmp_path / "a.mp3", Metadata(fields))
    expected = {"TRACKNUMBER": "3", "DISCNUMBER": "2", "ALBUMARTIST": "AA", "COMMENT": "d"}
    assert dict(read_metadata(path).comments) == expected


def test_aiff_and_caf_fields_are_read(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.aiff", "w", RATE, 1) as file:
        file.title = "Käse"
        file.write(noise(100))
    info = b"title\0K\xc3\xa4se\0track number\0003\0"
    info = chunk_be(b"info", struct.pack(">I", 2) + info)
    soundfile.write(tmp_path / "a.caf", noise(100), RATE)
    data = (tmp_path / "a.caf").read_bytes()
    (tmp_path / "a.caf").write_bytes(data[:8] + info + data[8:])
    assert dict(read_metadata(tmp_path / "a.aiff").comments)["TITLE"] == "Käse"
    assert read_metadata(tmp_path / "a.caf").comments == (("TITLE", "Käse"), ("TRACKNUMBER", "3"))


def chunk_be(name, body):
    return name + struct.pack(">q", len(body)) + body


@needs_ffprobe
@pytest.mark.parametrize("suffix", ENCODINGS)
def test_another_reader_finds_the_same(tmp_path, suffix):
    """ffprobe is as independent as it gets here."""
    path = tagged(tmp_path / f"a.{suffix}", Metadata(USUAL, (COVER,)))
    words = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)]
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    tags: dict[str, str] = {}
    sounds = [s for s in found["streams"] if s["codec_type"] == "audio"]
    for part in (*sounds, found["format"]):
        tags |= {name.lower(): text for name, text in part.get("tags", {}).items()}
    assert (tags["title"], tags["artist"]) == ("Käse 日本", "Ü")
    assert tags["track"] in ("3", "3/12")
    assert [s for s in found["streams"] if s.get("codec_name") == "png"]
    if suffix != "wav":  # of which it reads INFO only
        assert (tags["album_artist"], tags["disc"]) == ("AA", "2")


def test_positions_follow_an_excerpt():
    chunks = (
        (b"bext", bext(time=2**32 - 10)), (b"iXML", ixml(2**32 - 10)),
        (b"cue ", cue(99, 100, 599, 600)),
        (b"LIST", adtl(b"before", b"first", b"last", b"behind")),
        (b"LIST", b"INFO"),
    )  # fmt: skip
    comments = (("CHAPTER001", "00:00:00.050"), ("CHAPTER001NAME", "a"), ("TITLE", "t"),
                ("CHAPTER002", "00:00:00.300"), ("CHAPTER002NAME", "b"))  # fmt: skip
    moved = excerpt(Metadata(comments, chunks=chunks), 100, 500, 1000)
    found = dict(moved.chunks[:3])
    assert struct.unpack_from("<Q", found[b"bext"], 338)[0] == 2**32 + 90
    assert found[b"iXML"] == ixml(2**32 + 90)
    points = [struct.unpack_from("<II4s3I", found[b"cue "], 4 + 24 * i) for i in range(2)]
    assert [(p[0], p[1], p[5]) for p in points] == [(2, 0, 0), (3, 499, 499)]
    assert riff.list_entries(moved.chunks[3][1]) == [
        (b"labl", b"\2\0\0\0first\0"), (b"labl", b"\3\0\0\0last\0")]  # fmt: skip
    assert moved.comments == (
        ("TITLE", "t"), ("CHAPTER002", "00:00:00.200"), ("CHAPTER002NAME", "b"))  # fmt: skip


def test_chapters_follow_an_excerpt():
    def chapter(name, start, end):
        return ("CHAP", name + b"\0" + struct.pack(">4I", start, end, 5, 6) + b"rest")

    contents = b"toc\0\3\3a\0b\0c\0more"
    tag = Id3Tag(4, (("CTOC", contents), chapter(b"a", 0, 100), chapter(b"b", 100, 400),
                     chapter(b"c", 400, 900)))  # fmt: skip
    moved = excerpt(Metadata(id3=tag), 200, 400, 1000).id3
    assert moved is not None
    unknown = struct.pack(">2I", 0xFFFFFFFF, 0xFFFFFFFF)
    assert moved.frames == (
        ("CTOC", b"toc\0\3\2b\0c\0more"),
        ("CHAP", b"b\0" + struct.pack(">2I", 0, 200) + unknown + b"rest"),
        ("CHAP", b"c\0" + struct.pack(">2I", 200, 400) + unknown + b"rest"),
    )


def test_chapters_that_are_none_are_no_error():
    frames = (("CHAP", b"a"), ("CTOC", b""), ("CTOC", b"a\0\1"))
    bad = Metadata((("CHAPTER001", "soon"), ("CHAPTER002", "::")), id3=Id3Tag(4, frames))
    assert excerpt(bad, 100, 100, RATE).comments == ()


@pytest.mark.parametrize("suffix", ENCODINGS)
def test_damaged_metadata_is_left_out_and_never_an_error(tmp_path, suffix):
    chunks = ((b"bext", bext()), (b"cue ", cue(1, 2)), (b"LIST", adtl(b"a")))
    full = Metadata(USUAL, (COVER,), chunks)
    data = tagged(tmp_path / f"a.{suffix}", full).read_bytes()[:3000]
    path, rng = tmp_path / "b", np.random.default_rng(1)
    for _ in range(200):
        mutated = np.frombuffer(data, np.uint8)[: rng.integers(1, len(data))].copy()
        at = rng.integers(0, len(mutated), 4)
        mutated[at] = rng.integers(0, 256, 4)
        path.write_bytes(mutated.tobytes())
        found = excerpt(read_metadata(path), 10, 100, RATE)
        assert isinstance(vorbis.pack_comments(found.comments, found.pictures), bytes)
        assert isinstance(riff.pack_wav(found), bytes)
        assert isinstance(id3.pack(id3.from_metadata(found)), bytes)


def test_hostile_metadata_is_read_in_bounded_memory(tmp_path):
    packed = zlib.compress(bytes(MAX_BYTES))
    bomb = b"GEOB" + struct.pack(">IH", len(packed) + 4, 0x80) + bytes(4) + packed
    many = frame(b"TIT2", b"\3t") * (MAX_FIELDS + 5)
    for tag in (id3_tag(3, bomb * 100), id3_tag(4, many)):
        found = id3.parse(tag)
        assert found is not None
        assert sum(len(body) for _, body in found.frames) <= MAX_TOTAL
        assert 0 < len(found.frames) <= MAX_FIELDS
    fields = vorbis.pack_comments([("A", "b")] * (MAX_FIELDS + 5))
    assert len(vorbis.parse_comments(fields).comments) == MAX_FIELDS
    path = wav(tmp_path / "a.wav", *[chunk(b"DISP", b"")] * (MAX_FIELDS + 5), frames=10)
    assert len(read_metadata(path).chunks) < MAX_FIELDS
    huge = b"bext" + struct.pack("<I", 2**32 - 1)
    path.write_bytes(b"RIFF\0\0\0\0WAVE" + huge)
    assert read_metadata(path) == Metadata()


@pytest.mark.parametrize("mask", ["0x123456789", "-1", "front left"])
def test_a_speaker_mask_that_is_no_32_bits_is_left_out_and_the_fields_kept(mask):
    packet = vorbis.pack_comments([("WAVEFORMATEXTENSIBLE_CHANNEL_MASK", mask), ("TITLE", "one")])
    parsed = vorbis.parse_comments(packet)
    assert parsed.speakers is None
    assert parsed.comments == (("TITLE", "one"),)


@pytest.mark.parametrize("image", ["AAAA", "no base64", ""])
def test_a_picture_that_is_cut_off_is_left_out_and_the_fields_kept(image):
    packet = vorbis.pack_comments([("METADATA_BLOCK_PICTURE", image), ("TITLE", "one")])
    parsed = vorbis.parse_comments(packet)
    assert (parsed.comments, parsed.pictures) == ((("TITLE", "one"),), ())


@pytest.mark.parametrize("body", [b"\3", b"\3image/png\0", b"\3image/png\0\3cover"])
def test_an_id3_picture_that_is_cut_off_is_left_out_and_the_fields_kept(body):
    tag = Id3Tag(4, (("APIC", body), ("TIT2", b"\3one")))
    parsed = id3.to_metadata(tag)
    assert (parsed.comments, parsed.pictures) == ((("TITLE", "one"),), ())


def test_times_of_absurdly_many_digits_stay_as_they_are():
    digits = "9" * 5000
    high, low = (b"BWF_TIME_REFERENCE_%s" % half for half in (b"HIGH", b"LOW"))
    ixml = b"<%b>%b</%b><%b>1</%b>" % (high, digits.encode(), high, low, low)
    whole = Metadata(comments=(("TIME_REFERENCE", digits),), chunks=((b"iXML", ixml),))
    assert excerpt(whole, 10, 20, 8000) == whole


def test_of_a_long_ds64_chunk_only_the_sizes_are_read():
    info = riff.pack_chunk(b"LIST", b"INFO" + riff.pack_chunk(b"INAM", b"one\0"))
    ds64 = riff.pack_chunk(b"ds64", struct.pack("<3Q", 0, 4, 0) + bytes(1001))
    data = b"data" + struct.pack("<I", 0xFFFFFFFF) + bytes(4)
    file = io.BytesIO(ds64 + data + info)
    assert riff.read_wav(file).comments == (("TITLE", "one"),)
