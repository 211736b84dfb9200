"""Recordings: original levels, resumed storing, and weighted sampling."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import COLUMNS, hiss, make_corpus, pending, share_at, tone, tones, write_index

from rtmtass.errors import DataError, InputError, MissingPartError, OutputError
from rtmtass.io.decode import FLAC, decode, encode
from rtmtass.io.media import decoding
from rtmtass.training.data.corpus import Corpus, read_index
from rtmtass.training.data.recordings import (
    PendingRecording,
    Recordings,
    Sampler,
    has_recordings,
    is_muffled,
    store,
    stored_stamp,
)
from rtmtass.types import Samples


def stored(folder: Path, items: list[PendingRecording], stamp: str = "1") -> Path:
    path = folder / "speech-train"
    store(path, items, stamp)
    return path


def test_stored_recordings_keep_their_level(tmp_path: Path) -> None:
    sounds = {"loud": hiss(0.5, 1, 0.2), "faint": hiss(0.3, 2, 1e-3)}
    recordings = Recordings(stored(tmp_path, [pending(k, v) for k, v in sounds.items()]))
    for index, sound in enumerate(sounds.values()):
        whole = recordings.whole(index)
        # Half a 16-bit step relative to the recording's peak, not to full scale.
        step = np.abs(sound).max() / (0.98 * 32767)
        np.testing.assert_allclose(whole, sound, rtol=0, atol=0.51 * step)
        assert np.abs(recordings.crop(index, 0, 10**6)).max() == pytest.approx(0.98, abs=1e-4)
    assert recordings.seconds == pytest.approx(0.8)


def test_a_crop_ends_where_its_recording_ends(tmp_path: Path) -> None:
    items = [pending("a", tone(500, 0.5)), pending("b", hiss(0.5))]
    recordings = Recordings(stored(tmp_path, items))
    whole = recordings.crop(0, 0, 8000)
    np.testing.assert_array_equal(recordings.crop(0, 7000, 5000), whole[7000:])
    np.testing.assert_array_equal(recordings.crop(0, 100, 50), whole[100:150])
    assert len(recordings.crop(1, 0, 10**6)) == 8000


def test_interrupted_storing_resumes(tmp_path: Path) -> None:
    loads: list[str] = []

    def counted(name: str, seed: int) -> PendingRecording:
        def load() -> Samples:
            loads.append(name)
            return hiss(0.3, seed).astype(np.float32)

        return PendingRecording("s", name, name, load)

    items = [counted(name, seed) for seed, name in enumerate("abcd")]
    whole = stored(tmp_path / "whole", items)
    loads.clear()

    def interrupted() -> Samples:
        raise KeyboardInterrupt

    half = tmp_path / "half" / "speech-train"
    with pytest.raises(KeyboardInterrupt):
        store(half, [*items[:2], PendingRecording("s", "c", "c", interrupted)], "1")
    # Killed between writing samples and table, and in the middle of a line.
    with open(f"{half}.i16", "ab") as file:
        file.write(b"half a recording")
    with open(f"{half}.jsonl", "a") as table:
        table.write('{"source": "s", "gro')
    assert len(Recordings(half)) == 2
    store(half, items, "1")
    assert loads == ["a", "b", "c", "d"]
    for suffix in ("i16", "jsonl"):
        assert Path(f"{half}.{suffix}").read_bytes() == Path(f"{whole}.{suffix}").read_bytes()


@pytest.mark.parametrize("kept", [0, 7999, 8000, 12_001, 23_999])
def test_lost_samples_are_decoded_again_and_never_silence(kept: int, tmp_path: Path) -> None:
    items = [pending(f"{n}", hiss(0.5, n)) for n in range(3)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for path in (whole, cut):
        store(path, items, "stamp")
    os.truncate(f"{cut}.i16", 2 * kept)
    with pytest.raises(DataError, match=rf"cut\.i16 holds {kept} of 24000 samples: .* delete "):
        Recordings(cut)
    assert stored_stamp(cut) == ""
    store(cut, items, "stamp")
    for suffix in ("i16", "jsonl"):
        assert Path(f"{cut}.{suffix}").read_bytes() == Path(f"{whole}.{suffix}").read_bytes()
    os.unlink(f"{cut}.i16")
    store(cut, items, "stamp")
    assert Path(f"{cut}.i16").read_bytes() == Path(f"{whole}.i16").read_bytes()


@pytest.mark.parametrize(
    "damage", [b"\0" * 30, b"{", b"7", b'{"start": 1}', b"\xff", b"[" * 99_999]
)
def test_a_damaged_line_of_the_table_is_decoded_again(damage: bytes, tmp_path: Path) -> None:
    items = [pending(f"{n}", hiss(0.5, n)) for n in range(3)]
    path = tmp_path / "x"
    store(path, items, "stamp")
    table = Path(f"{path}.jsonl")
    before = table.read_bytes()
    for number in range(4):
        lines = before.splitlines(keepends=True)
        lines[number] = damage + b"\n"
        table.write_bytes(b"".join(lines))
        store(path, items, "stamp")
        assert table.read_bytes() == before


def test_samples_are_on_the_disk_before_the_table_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    table, audio = tmp_path / "x.jsonl", tmp_path / "x.i16"
    monkeypatch.setattr(
        "rtmtass.training.data.recordings.os.fsync",
        lambda _: synced.append((audio.stat().st_size, table.read_bytes().count(b"\n"))),
    )
    monkeypatch.setattr("rtmtass.training.data.recordings._Appended._MOST", 20_000)
    store(tmp_path / "x", [pending(f"{n}", hiss(0.5, n)) for n in range(3)], "stamp")
    assert synced[:2] == [(32_000, 1), (32_000, 3)]
    assert synced[-1] == (48_000, 4)


def test_a_full_disk_is_told_and_keeps_what_was_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [pending(f"{n}", hiss(0.5, n)) for n in range(2)]
    path = tmp_path / "x"
    store(path, items[:1], "stamp")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rtmtass.training.data.recordings.os.fsync", full)
        with pytest.raises(OutputError, match="x can't be written: the disk is full"):
            store(path, items, "stamp")
    assert len(Recordings(path)) == 1
    store(path, items, "stamp")
    assert len(Recordings(path)) == 2


def test_another_stamp_rewrites_the_file(tmp_path: Path) -> None:
    path = stored(tmp_path, [pending("a", tone(500, 1.0)), pending("b", tone(700, 1.0))])
    stored(tmp_path, [pending("a", tone(900, 0.5))], "2")
    recordings = Recordings(path)
    assert [row.path for row in recordings.rows] == ["a"]
    assert share_at(recordings.whole(0), 900) > 0.99
    assert Path(f"{path}.i16").stat().st_size == 2 * 8000


def test_unreadable_recordings_are_stored_empty_and_not_retried(tmp_path: Path) -> None:
    tries: list[int] = []

    def load() -> Samples:
        tries.append(1)
        raise InputError("no sound")

    items = [
        PendingRecording("s", "x", "x", load),
        pending("a", hiss(0.3)),
        pending("silent", np.zeros(9000)),
    ]
    for _ in range(2):
        path = stored(tmp_path, items)
    assert len(tries) == 1
    assert [row.path for row in Recordings(path).rows] == ["a"]


def test_no_usable_recordings_are_an_error(tmp_path: Path) -> None:
    path = stored(tmp_path, [pending("silent", np.zeros(9000)), pending("short", hiss(0.05))])
    assert not has_recordings(path)
    with pytest.raises(DataError, match=r"no recordings in .*speech-train\.jsonl"):
        Recordings(path)


def test_muffled_recordings_can_be_left_out(tmp_path: Path) -> None:
    dull = tone(500, 1.0) + hiss(1.0, 3, 1e-5)
    assert is_muffled(dull.astype(np.float32))
    assert not is_muffled(hiss(1.0).astype(np.float32))
    path = stored(tmp_path, [pending("dull", dull), pending("bright", hiss(1.0))])
    assert [r.path for r in Recordings(path).rows] == ["dull", "bright"]
    assert [r.path for r in Recordings(path, keep_muffled=False).rows] == ["bright"]


def test_only_muffled_recordings_are_an_error(tmp_path: Path) -> None:
    path = stored(tmp_path, [pending("dull", tone(500, 1.0))])
    with pytest.raises(DataError, match="muffled, with nothing above 4 kHz; add some"):
        Recordings(path, keep_muffled=False)


def test_the_fingerprint_changes_with_the_recordings(tmp_path: Path) -> None:
    items = [pending(name, hiss(0.3)) for name in "abc"]
    path = stored(tmp_path, items)
    one, two = (Recordings(path, first=n).fingerprint for n in (2, 3))
    assert one != two
    assert Recordings(path).fingerprint == two


def test_large_sources_and_groups_have_reduced_weight(tmp_path: Path) -> None:
    """Group weights are the roots of their lengths; source weights, sums to the power 0.7."""
    seconds = {("big", "g1"): 4.0, ("big", "g2"): 1.0, ("big", "g3"): 1.0, ("small", "g1"): 0.25}
    items = [pending(f"{s}{g}", hiss(t, 1), s, g) for (s, g), t in seconds.items()]
    items.append(pending("more", hiss(0.75, 1), "small", "g1"))
    sampler = Sampler(Recordings(stored(tmp_path, items)))
    rng = np.random.default_rng(0)
    drawn = np.bincount([sampler.draw(rng) for _ in range(20000)], minlength=5) / 20000
    big, small = 4.0**0.7, 1.0**0.7  # roots of the seconds: 2 + 1 + 1, and 1
    share = big / (big + small)
    expected = [share / 2, share / 4, share / 4, (1 - share) / 4, 3 * (1 - share) / 4]
    np.testing.assert_allclose(drawn, expected, atol=0.012)  # 3.5 standard deviations


def test_a_sampler_can_be_restricted_to_some_recordings(tmp_path: Path) -> None:
    path = stored(tmp_path, [pending(name, hiss(0.3)) for name in "abcd"])
    sampler = Sampler(Recordings(path), [1, 3])
    rng = np.random.default_rng(0)
    assert {sampler.draw(rng) for _ in range(200)} == {1, 3}


def test_a_corpus_is_decoded_once_and_again_when_it_changes(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", tones)
    done: list[tuple[str, int, int]] = []
    corpus = Corpus(folder, tmp_path / "cache", lambda *a: done.append(a))
    recordings = corpus.recordings("music", "train")
    assert [r.group for r in recordings.rows] == ["train0", "train1"]
    assert done == [("music-train", 1, 2), ("music-train", 2, 2)]
    corpus.recordings("music", "train")
    assert len(done) == 2
    encode(folder / "music-train-0.wav", hiss(0.4).astype(np.float32), FLAC)
    assert int(corpus.recordings("music", "train").lengths[0]) == 6400
    assert len(done) == 4


def test_the_splits_dont_mix(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path / "corpus", tones), tmp_path / "cache")
    for role in ("speech", "music", "noise"):
        paths = {
            split: {r.path for r in corpus.recordings(role, split).rows}
            for split in ("train", "dev")
        }
        assert all(split in p for split, mine in paths.items() for p in mine)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("rate", "suffix"), [(44100, "flac"), (8000, "wav"), (48000, "ogg")])
def test_any_file_becomes_16_khz_mono(
    tmp_path: Path, rate: int, suffix: str, channels: int
) -> None:
    t = np.arange(round(1.2 * rate)) / rate
    left = 0.4 * np.sin(2 * np.pi * 1000 * t)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([left, 0.5 * left], axis=1)[:, :channels], rate)
    samples = decode(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 1.2 * 16000) <= 1
    inner = samples[2000:-2000]
    assert share_at(inner, 1000) > 0.99
    expected = 0.4 if channels == 1 else 0.3
    assert np.sqrt(2 * np.mean(inner**2)) == pytest.approx(expected, rel=0.02)


def test_16_khz_mono_is_unchanged(tmp_path: Path) -> None:
    samples = hiss(1.0).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(decode(tmp_path / "a.wav"), samples)


def test_the_sound_of_a_video_is_decoded(tmp_path: Path) -> None:
    media_clips = pytest.importorskip("media_clips", exc_type=ImportError)
    samples = hiss(1.0).astype(np.float32)
    track = media_clips.Track(samples[:, None], 16000, "pcm_s24le")
    media_clips.write_clip(tmp_path / "a.mkv", [track])
    np.testing.assert_allclose(decode(tmp_path / "a.mkv"), samples, rtol=0, atol=2.0**-23)


def test_without_pyav_and_ffmpeg_their_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.m4a").write_bytes(b"not of libsndfile's kind" * 9)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(decoding, "has_pyav", lambda: False)
    with pytest.raises(MissingPartError, match=r"a\.m4a needs PyAV or ffmpeg .* install ffmpeg"):
        decode(tmp_path / "a.m4a")


def row(**changes: object) -> list[object]:
    values = dict(
        zip(COLUMNS, ["speech", "s", "g", "train", "a.wav", 1.5, "CC0", "A"], strict=True)
    )
    return list({**values, **changes}.values())


def test_an_index_round_trips(tmp_path: Path) -> None:
    path = write_index(tmp_path, [row(), row(split="dev", group="ä, b")])
    first, second = read_index(path)
    assert (first.seconds, first.licence, first.tier) == (1.5, "CC0", "A")
    assert (second.split, second.group) == ("dev", "ä, b")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rsplit(",", 2)[0] for line in lines[:2]))
    assert read_index(path)[0].licence == ""


def no_seconds(folder: Path) -> None:
    (folder / "index.csv").write_text("role,source,group,split,path\nspeech,s,g,train,a.wav\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: None, r"isn't a corpus: .*make one with: rtmtass data build"),
        (no_seconds, r"lacks the columns seconds; .*rtmtass data build"),
        (lambda f: write_index(f, [row(split="test")]), r"a\.wav has split 'test'; change it to"),
        (lambda f: write_index(f, [row(seconds="long")]), r"a\.wav has seconds 'long'; change it"),
        (
            lambda f: write_index(f, [["speech", "s", "g", "train", "a.wav"]]),
            "has seconds None; change it",
        ),
    ],
)
def test_an_invalid_index_is_an_error(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        Corpus(tmp_path, tmp_path / "cache")


def test_missing_recordings_are_named(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path / "corpus", tones), tmp_path / "cache")
    with pytest.raises(DataError, match=r"has no birdsong for train; .*rtmtass data build"):
        corpus.recordings("birdsong", "train")
    (tmp_path / "corpus" / "music-dev-1.wav").unlink()
    with pytest.raises(DataError, match=r"lists music-dev-1\.wav, which doesn't exist"):
        corpus.recordings("music", "dev")
    assert corpus.bank("singing", "dev") is None
