"""`rtmtass.separate_file` and `Separator.separate`: the command line's stems, from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator
from numpy.typing import NDArray

import rtmtass
from rtmtass import STEMS, separate_file
from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.offline.from_python import StreamSeparator

FAKE: StreamSeparator = FakeSeparator()


def record(path: Path, n: int, rate: int, channels: int) -> NDArray[np.float32]:
    x = np.random.default_rng(n).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)
    soundfile.write(path, x, rate, "FLOAT" if path.suffix == ".wav" else None)
    return x


def read(path: Path) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = soundfile.read(path, dtype="float32", always_2d=True)[0]
    return samples


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1), (48000, 3)])
def test_command_function_and_array_give_the_same_samples(
    rate: int, channels: int, tmp_path: Path
) -> None:
    path = tmp_path / "talk.wav"
    x = record(path, 2 * rate + 123, rate, channels)
    command = [sys.executable, "-m", "rtmtass", "separate", str(path), "-o", str(tmp_path / "c")]
    subprocess.run(command, check=True, timeout=300)
    result = separate_file(path, tmp_path / "p")
    stems = rtmtass.load().separate(x, rate)
    for k, stem in enumerate(STEMS):
        of_command = read(tmp_path / "c" / f"talk.{stem}.wav")
        np.testing.assert_array_equal(stems[k], read(result.outputs[stem]))
        np.testing.assert_array_equal(stems[k], of_command)


def test_the_result_says_what_was_written(tmp_path: Path) -> None:
    record(tmp_path / "a.flac", 5000, 44100, 2)
    result = separate_file(str(tmp_path / "a.flac"), str(tmp_path / "new" / "o"), separator=FAKE)
    assert result.status == "done"
    assert list(result.outputs) == list(STEMS)
    assert (result.frames, result.sample_rate, result.channels) == (5000, 44100, 2)
    assert result.duration_s == pytest.approx(5000 / 44100)
    for stem, path in result.outputs.items():
        assert path == tmp_path / "new" / "o" / f"a.{stem}.flac"
        assert soundfile.info(path).frames == 5000


def test_outputs_are_skipped_or_overwritten(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 500, 16000, 1)
    assert separate_file(tmp_path / "a.wav", separator=FAKE).status == "done"
    (tmp_path / "a.music.wav").write_bytes(b"mine")
    assert separate_file(tmp_path / "a.wav", separator=FAKE).status == "skipped"
    assert (tmp_path / "a.music.wav").read_bytes() == b"mine"
    assert separate_file(tmp_path / "a.wav", separator=FAKE, overwrite=True).status == "done"
    assert len(read(tmp_path / "a.music.wav")) == 500


def test_progress_counts_frames_to_the_end(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 40_000, 16000, 1)
    calls: list[tuple[int, int | None]] = []
    separate_file(tmp_path / "a.wav", separator=FAKE, progress=lambda *call: calls.append(call))
    assert calls == [(16000, 40_000), (32000, 40_000), (40_000, 40_000)]


def test_an_exception_of_the_callback_leaves_no_files(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 40_000, 16000, 1)

    def fail(done: int, total: int | None) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        separate_file(tmp_path / "a.wav", separator=FAKE, progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_remix_alone(tmp_path: Path) -> None:
    x = record(tmp_path / "a.wav", 5000, 16000, 1)
    result = separate_file(
        tmp_path / "a.wav",
        separator=FakeSeparator(weights=(0.5, 0.25, 0.25)),
        stems=(),
        mix=tmp_path / "m.wav",
        gains_db={"music": float("-inf"), "noise": float("-inf")},
    )
    assert list(result.outputs) == ["mix"]
    np.testing.assert_allclose(read(tmp_path / "m.wav"), 0.5 * x, atol=1e-6)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"stems": ["voice"]}, "unknown stem 'voice'; choose from speech, music, noise"),
        ({"gains_db": {"drums": 0.0}}, "unknown stem 'drums'"),
        ({"format": "m4a"}, "unknown format 'm4a'; choose from wav, flac"),
        ({"subtype": "PCM_12"}, "unknown subtype 'PCM_12'; choose from"),
        ({"channels": "left"}, "unknown channel mode 'left'; choose from linked"),
        ({"stems": ()}, "nothing to write; name a stem or a mix"),
        ({"folder": "-"}, r"takes files; for streams, use load\(\)"),
        ({"path": "-"}, "takes files"),
        ({"path": "."}, "is a folder; call separate_file for each recording"),
    ],
)
def test_wrong_arguments_are_refused(
    keywords: dict[str, object], message: str, tmp_path: Path
) -> None:
    record(tmp_path / "a.wav", 500, 16000, 1)
    before = sorted(tmp_path.iterdir())
    arguments = {"path": tmp_path / "a.wav", "separator": FAKE, **keywords}
    with pytest.raises(UsageError, match=message):
        separate_file(**arguments)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_inputs_and_outputs_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.wav"):
        separate_file(tmp_path / "none.wav", separator=FAKE)
    record(tmp_path / "a.wav", 500, 16000, 1)
    with pytest.raises(OutputError, match=r"a\.wav is an input too"):
        separate_file(tmp_path / "a.wav", separator=FAKE, stems=(), mix=tmp_path / "a.wav")
    with pytest.raises(OutputError, match=r"a\.wav"):
        separate_file(tmp_path / "a.wav", tmp_path / "a.wav" / "o", separator=FAKE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_importing_the_package_stays_light() -> None:
    code = "import rtmtass, sys; print('rtmtass.offline' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
