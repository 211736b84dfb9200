"""`rtmtass evaluate` on plain folders: both layouts, and what is missing is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtmtass.cli.main import main
from rtmtass.config import STEMS
from rtmtass.errors import DataError
from rtmtass.evaluation.evaluate import measure, read_set, set_names
from rtmtass.evaluation.sets import describe_set
from rtmtass.types import Samples

RATE = 16000


def tracks(seed: int, seconds: float = 1.0) -> dict[str, Samples]:
    rng = np.random.default_rng(seed)
    stems = {s: (0.05 * rng.standard_normal(round(seconds * RATE))).astype("f") for s in STEMS}
    return {"mixture": np.sum(list(stems.values()), axis=0), **stems}


def write(path: Path, samples: Samples, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, "FLOAT" if path.suffix == ".wav" else "PCM_24")


def by_clip(folder: Path, clip: str, track: str) -> Path:
    return folder / clip / f"{track}.wav"


def by_track(folder: Path, clip: str, track: str) -> Path:
    return folder / track / f"{clip}.flac"


@pytest.mark.parametrize("layout", [by_clip, by_track])
def test_both_layouts_are_read(layout: type, tmp_path: Path) -> None:
    clips = {name: tracks(seed) for seed, name in enumerate(["b two", "a.1", "ü"])}
    for name, of_clip in clips.items():
        for track, samples in of_clip.items():
            write(layout(tmp_path, name, track), samples)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "other").mkdir()
    names = set_names(tmp_path) if layout is by_track else []
    if layout is by_clip:
        (tmp_path / "other").rmdir()
        names = set_names(tmp_path)
    assert names == ["a.1", "b two", "ü"]
    for clip in read_set(tmp_path, STEMS):
        of_clip = clips[clip.name]
        np.testing.assert_allclose(clip.mixture, of_clip["mixture"], atol=1e-6)
        np.testing.assert_allclose(clip.stems, [of_clip[s] for s in STEMS], atol=1e-6)


def test_a_folder_of_one_clip_and_upper_case_names_are_read(tmp_path: Path) -> None:
    for track, samples in tracks(0).items():
        write(tmp_path / f"{track.title()}.WAV", samples)
    (clip,) = read_set(tmp_path, STEMS)
    assert clip.name == tmp_path.name


@pytest.mark.parametrize("layout", [by_clip, by_track])
@pytest.mark.parametrize("absent", [("noise",), ("speech", "music")])
def test_missing_stems_are_named(layout: type, absent: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("a", "b"):
        for track, samples in tracks(0).items():
            if name == "a" or track not in absent:
                write(layout(tmp_path, name, track), samples)
    with pytest.raises(DataError) as caught:
        list(read_set(tmp_path, STEMS))
    message = str(caught.value)
    assert f"clip 'b' lacks {' and '.join(absent)} (it has mixture, " in message
    assert "\n" not in message


def test_a_clip_without_a_mixture_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for track, samples in tracks(0).items():
            if name == "a" or track != "mixture":
                write(by_clip(tmp_path, name, track), samples)
    with pytest.raises(DataError, match="clip 'b' lacks mixture"):
        set_names(tmp_path, ("mixture",))


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "sounds"])
def test_a_folder_without_a_set_says_what_one_looks_like(make: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    if make == "file":
        folder.write_text("")
    elif make != "nothing":
        folder.mkdir()
    if make == "sounds":
        write(folder / "talk.wav", tracks(0)["speech"])
    with pytest.raises(DataError, match=r"no list\.csv; .*data mix, or give .* CLIP/mixture\.wav"):
        set_names(folder)


def test_tracks_of_different_lengths_are_cut_or_refused(tmp_path: Path) -> None:
    clip = tracks(0)
    for track, samples in clip.items():
        write(by_clip(tmp_path, "a", track), samples[: 15000 if track == "music" else None])
    (read,) = read_set(tmp_path, STEMS)
    assert read.stems.shape == (3, 15000)
    write(by_clip(tmp_path, "a", "noise"), clip["noise"][:4000])
    with pytest.raises(DataError, match=r"clip 'a' differ in length .*noise 0\.25 s"):
        list(read_set(tmp_path, STEMS))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"name,mixture\n\xe9,x\n", "can't be read"),
        (b"name,mixture,speech\na,b\n", "lacks the columns music, noise"),
        (b"name,mixture,speech,music,noise\na,b\n", "line 2, has no speech and no music and no n"),
        (b"", "lacks the columns"),
    ],
)
def test_a_damaged_list_is_one_line(data: bytes, shown: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(DataError, match=shown):
        list(read_set(tmp_path, STEMS))
    (tmp_path / "set.json").write_text("[3")
    with pytest.raises(DataError, match=r"set\.json can't be read"):
        describe_set(tmp_path)


def test_a_silent_stem_has_no_sdr(tmp_path: Path) -> None:
    clip = tracks(0)
    stems = np.array([clip["speech"], np.zeros_like(clip["music"]), clip["noise"]])
    scores = measure(stems.sum(axis=0), stems, stems * np.float32(0.9), RATE)
    for values in scores.values():
        assert [math.isnan(v) for v in values] == [False, True, False]


def test_the_command_measures_a_plain_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        clip = tracks(1)
        clip["music"] = np.zeros_like(clip["music"])  # in no clip
        if name == "b":
            clip["speech"] = np.zeros_like(clip["speech"])
        clip["mixture"] = np.sum([clip[s] for s in STEMS], axis=0)
        for track, samples in clip.items():
            write(by_track(tmp_path, name, track), samples)
    command = ["evaluate", "rtmtass-small", str(tmp_path), "--no-perceptual"]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert figures["clips"] == 2
    assert figures["si_sdri"]["music"] is None
    assert figures["si_sdri"]["speech"]["clips"] == 1
    assert {row["clip"] for row in figures["worst"]} == {"a", "b"}
    assert not err
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "2 clips" in out
    assert "nan" not in out
    (tmp_path / "noise" / "b.flac").unlink()
    assert main([*command, "--json"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "rtmtass: " in err
    assert "clip 'b' lacks noise" in err
    assert len(err.splitlines()) == 1
