"""Evaluation: expected scores for known estimates, the HTML report, and exit codes."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import image
from numpy.typing import ArrayLike

import rtmtass
from rtmtass.cli.main import main
from rtmtass.config import STEMS
from rtmtass.errors import DataError, MissingPartError, OutputError
from rtmtass.evaluation import html_report as report_html
from rtmtass.evaluation import perceptual
from rtmtass.evaluation.evaluate import Clip, evaluate, measure, read_set, set_names, with_interval
from rtmtass.evaluation.html_report import choose_clips, write_html
from rtmtass.evaluation.leakage import cases, leakage_db, silence_dbfs
from rtmtass.evaluation.singing import compare_singing
from rtmtass.report.page import FLOOR_DB, TOP_DB, spectrogram_png
from rtmtass.separator import Separator
from rtmtass.types import Samples

RATE = 16000
SECONDS = 2.0
NAMES = ["00000", "00001", "00002", "00003"]


def stems_of(seed: int) -> np.ndarray:
    """Return a modulated buzz, a chord and hiss, (3, N), nearly orthogonal."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(SECONDS * RATE)) / RATE
    pitch = np.cumsum(120 + 30 * np.sin(5 * t + seed)) / RATE
    speech = np.sin(20 * t) ** 2 * sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 30))
    music = sum(np.sin(2 * np.pi * f * (1 + 0.1 * seed) * t) for f in (440, 554, 659))
    noise = rng.standard_normal(len(t))
    stems = np.stack([speech, music, noise])
    return (0.1 * stems / stems.std(axis=1, keepdims=True)).astype(np.float32)


def clip_of(seed: int) -> Clip:
    stems = stems_of(seed)
    return Clip(NAMES[seed], stems.sum(axis=0), stems)


class Oracle(Separator):
    """A separator that returns the true stems of known clips, changed by `spoil`."""

    def __init__(
        self, clips: list[Clip], spoil: Callable[[Samples], Samples] = lambda stems: stems
    ) -> None:
        self.stems, self.sample_rate = STEMS, RATE
        self.spoil = spoil
        self.known: dict[bytes, Samples] = {}
        for clip in clips:
            for present in cases(3):
                part = np.zeros_like(clip.stems)
                part[list(present)] = clip.stems[list(present)]
                self.known[clip.stems[list(present)].sum(axis=0).tobytes()] = part
            self.known[clip.mixture.tobytes()] = clip.stems

    def separate(self, mixture: ArrayLike, *_: object, **__: object) -> Samples:
        mixture = np.asarray(mixture)
        trimmed = np.trim_zeros(mixture, "b")
        for length in (len(mixture), round(SECONDS * RATE)):
            stems = self.known.get(mixture[:length].tobytes())
            if stems is not None:
                return self.spoil(np.pad(stems, ((0, 0), (0, len(mixture) - length))))
        assert not len(trimmed), "unknown mixture"
        return self.spoil(np.zeros((3, len(mixture)), np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation set as `rtmtass data mix` writes it."""
    folder = tmp_path_factory.mktemp("set")
    with (folder / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "mixture", *STEMS])
        for seed, name in enumerate(NAMES):
            clip = clip_of(seed)
            for track, samples in zip(
                ("mixture", *STEMS), (clip.mixture, *clip.stems), strict=True
            ):
                soundfile.write(folder / f"{name}-{track}.wav", samples, RATE)
            table.writerow([name, *(f"{name}-{track}.wav" for track in ("mixture", *STEMS))])
    (folder / "set.json").write_text(json.dumps({"n": len(NAMES), "seed": 0}))
    return folder


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pesq unimportable."""
    monkeypatch.setitem(sys.modules, "pesq", None)


def test_a_perfect_estimate_has_the_best_scores() -> None:
    clips = [clip_of(seed) for seed in range(4)]
    figures = evaluate(Oracle(clips), clips, 4, measures=perceptual.MEASURES)
    unseparated = [
        perceptual.bss_sdr(np.broadcast_to(c.mixture, c.stems.shape), c.stems) for c in clips
    ]
    best = perceptual.BSS_CLAMP_DB - np.mean(unseparated, axis=0)
    for i, stem in enumerate(STEMS):
        assert figures["si_sdri"][stem]["mean"] > 90
        assert figures["bss_sdri"][stem]["mean"] == pytest.approx(best[i], abs=0.1)
        assert figures["leakage_db"][stem]["mean"] == pytest.approx(-120, abs=0.1)
    assert figures["silence_dbfs"] == {"from_start": -120, "after_sound": -120, "clips": 1}
    assert figures["pesq"]["output"]["mean"] == pytest.approx(4.644, abs=1e-3)
    assert figures["stoi"]["output"]["mean"] == pytest.approx(1, abs=1e-3)
    assert figures["pesq"]["mixture"]["mean"] < 4
    assert figures["stoi"]["mixture"]["mean"] < 0.95


def test_the_mixture_itself_improves_nothing() -> None:
    clips = [clip_of(seed) for seed in range(4)]
    oracle = Oracle(clips, lambda stems: np.repeat(stems.sum(axis=0)[None], 3, axis=0))
    figures = evaluate(oracle, clips, 4, measures=perceptual.MEASURES)
    for name in ("si_sdri", "sdri", "bss_sdri"):
        for stem in (*STEMS, "average"):
            assert figures[name][stem] == {
                k: pytest.approx(0, abs=1e-3) for k in ("mean", "low", "high")
            }
    for name in ("pesq", "stoi"):
        assert figures[name]["improvement"]["mean"] == pytest.approx(0, abs=1e-3)
    for stem in STEMS:
        assert figures["leakage_db"][stem]["mean"] == pytest.approx(0, abs=1e-2)


def test_leakage_is_measured_for_every_subset_of_stems() -> None:
    assert [len(present) for present in cases(3)] == [2, 2, 2, 1, 1, 1]
    clips = [clip_of(seed) for seed in (0, 1, 2, 3, 1)]
    share = np.array([0.1, 0.01, 0.001], np.float32)  # leakage of the mixture into each stem

    def leaky(stems: np.ndarray) -> np.ndarray:
        return stems + share[:, None] * stems.sum(axis=0)

    figures = evaluate(Oracle(clips, leaky), clips, 5)
    by_case = figures["leakage_by_case_db"]
    expected = dict(zip(STEMS, (-20, -40, -60), strict=True))
    assert {case: set(levels) for case, levels in by_case.items()} == {
        "speech + music": {"noise"},
        "speech + noise": {"music"},
        "music + noise": {"speech"},
        "speech": {"music", "noise"},
        "music": {"speech", "noise"},
        "noise": {"speech", "music"},
    }
    for levels in by_case.values():
        for stem, value in levels.items():
            assert value["mean"] == pytest.approx(expected[stem], abs=0.01)
            assert value["high"] >= value["mean"] >= value["low"]
    assert figures["leakage_db"] == {
        "speech": by_case["music + noise"]["speech"],
        "music": by_case["speech + noise"]["music"],
        "noise": by_case["speech + music"]["noise"],
    }
    rows = leakage_db(Oracle(clips, leaky), clips[0].stems)
    assert rows.shape == (6, 3)
    assert np.isnan(rows).sum() == 9


def test_silence_is_the_maximum_over_all_clips() -> None:
    clips = [clip_of(seed) for seed in range(4)] + [clip_of(0)]
    levels = iter([1e-3, 1e-2])

    class Ringing(Oracle):
        def separate(self, mixture: ArrayLike, *_: object, **__: object) -> Samples:
            out, mixture = super().separate(mixture), np.asarray(mixture)
            if len(mixture) > SECONDS * RATE and mixture.any():
                out[1, -RATE:] += next(levels)
            return out

    silence = evaluate(Ringing(clips), clips, 5)["silence_dbfs"]
    assert silence["from_start"] == -120
    assert silence["after_sound"] == pytest.approx(-40 - 10 * np.log10(4), abs=0.1)
    assert silence["clips"] == 2


def test_the_released_model_outputs_silence_for_silence() -> None:
    levels = silence_dbfs(rtmtass.load(), clip_of(0).mixture)
    assert (levels < -80).all()


def test_singing_is_compared_by_paired_clips(tmp_path: Path) -> None:
    plain = [clip_of(seed) for seed in range(3)]
    sung = [Clip(c.name, c.mixture, c.stems) for c in plain[1:]]

    class Worse(Oracle):
        error = 0.01

        def separate(self, mixture: ArrayLike, *_: object, **__: object) -> Samples:
            stems = super().separate(mixture)
            noise = np.random.default_rng(0).standard_normal(stems.shape)
            return (stems + self.error * noise).astype(np.float32)

    oracle = Worse(plain)

    def then_worse():
        oracle.error = 0.02
        yield from sung

    figures = compare_singing(oracle, iter(plain), then_worse(), 5)
    assert figures["clips"] == 2
    assert figures["difference"]["mean"] == pytest.approx(-20 * np.log10(2), abs=0.01)
    gap = figures["with_singing"]["mean"] - figures["instrumental"]["mean"]
    assert gap == pytest.approx(figures["difference"]["mean"], abs=2e-3)
    with pytest.raises(DataError, match="no clips of the same name"):
        compare_singing(oracle, iter(plain[:1]), iter(sung), 3)


def test_rows_by_input_sdr_hold_every_clip_once() -> None:
    clips = [clip_of(seed) for seed in range(4)]
    figures = evaluate(Oracle(clips, lambda stems: stems[::-1].copy()), clips, 4)
    for stem in STEMS:
        rows = figures["by_input_sdr"][stem]
        assert sum(row["clips"] for row in rows.values()) == 4
        assert figures["si_sdri_by_input_sdr"][stem] == {
            name: row["si_sdri"]["mean"] for name, row in rows.items()
        }
        for name in ("sdri", "si_sdri"):
            mean = sum(row["clips"] * row[name]["mean"] for row in rows.values()) / 4
            assert mean == pytest.approx(figures[name][stem]["mean"], abs=2e-3)
    assert "pesq" not in figures


def test_bss_eval_allows_a_filter_but_not_noise() -> None:
    rng = np.random.default_rng(0)
    target = stems_of(0)[2:]
    filtered = np.convolve(target[0], rng.standard_normal(100))[: target.shape[1]][None]
    noisy = filtered + filtered.std() * 10**-0.5 * rng.standard_normal(target.shape)
    assert perceptual.bss_sdr(filtered, target)[0] > 25
    # 512 taps fit a little of any noise.
    assert perceptual.bss_sdr(noisy, target)[0] == pytest.approx(10, abs=0.3)


def test_silent_clips_have_no_score_and_dont_affect_others() -> None:
    clips = [clip_of(seed) for seed in range(2)]
    clips[1].stems[0] = 0
    clips[1] = Clip("silent", clips[1].stems.sum(axis=0), clips[1].stems)
    figures = evaluate(Oracle(clips), clips, 2, measures=perceptual.MEASURES)
    alone = evaluate(Oracle(clips[:1]), clips[:1], 1, measures=perceptual.MEASURES)
    assert figures["pesq"]["output"] == {**alone["pesq"]["output"], "clips": 1}
    assert figures["stoi"]["output"]["clips"] == 1
    assert figures["bss_sdri"]["speech"] == {**alone["bss_sdri"]["speech"], "clips": 1}
    json.dumps(figures, allow_nan=False)
    silence = np.zeros((3, RATE), np.float32)
    nothing = measure(silence[0], silence, silence, RATE, perceptual.MEASURES)
    assert np.isnan([*nothing["pesq"], *nothing["stoi"], *nothing["bss_sdri"]]).all()
    assert with_interval(nothing["pesq"]) is None


def test_too_little_speech_has_no_score() -> None:
    short = stems_of(0)[0, :2000]
    assert np.isnan(perceptual.stoi(short, short, RATE))
    assert np.isnan(perceptual.pesq(short, short, RATE))


def test_a_set_is_read_in_parts(folder: Path, tmp_path: Path) -> None:
    assert set_names(folder) == NAMES
    assert [c.name for c in read_set(folder, STEMS, first=2)] == NAMES[:2]
    (clip,) = read_set(folder, ("noise", "speech"), names={"00002"})
    np.testing.assert_allclose(clip.stems, clip_of(2).stems[[2, 0]], atol=1e-4)
    with pytest.raises(DataError, match=r"lacks the columns voice; .* rtmtass data mix"):
        next(read_set(folder, ("voice",)))
    with pytest.raises(DataError, match=r"holds no list.csv; .* rtmtass data mix"):
        set_names(tmp_path)


class Page(HTMLParser):
    """Collects a page's sources and links, and checks that its tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.links = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if source := values.get("src"):
            self.sources.append(source)
        self.links += tag == "link" or "href" in values
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    clips = [clip_of(seed) for seed in range(4)]
    clips[0] = Clip("<script>", clips[0].mixture, clips[0].stems)
    oracle = Oracle(clips)
    figures = evaluate(oracle, clips, 4, measures=perceptual.MEASURES)
    figures["left_out"] = "a & b"
    chosen = {"<script>": "worst", "00002": "random"}
    selected = [clips[2], clips[0]]
    write_html(path, figures, oracle, selected, chosen, {"model": "it <i>"})
    return path.read_text(encoding="utf-8")


def test_the_page_is_self_contained(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.links == 0
    assert "http" not in re.sub(r"base64,[\w+/=]*", "", page)  # it may spell it
    assert "url(" not in page
    assert "@import" not in page
    kinds = [source.split(";")[0] for source in parsed.sources]
    assert sorted(set(kinds)) == ["data:audio/ogg", "data:image/png"]
    assert kinds.count("data:audio/ogg") == kinds.count("data:image/png") == 2 * 7
    assert len(page) < 2_000_000


def test_the_page_shows_all_figures(page: str) -> None:
    for words in ("PESQ", "STOI", "BSS-eval", "leakage", "4 clips", "a &amp; b", "it &lt;i&gt;"):
        assert words in page
    assert "&lt;script&gt;</b>" in page
    assert page.index("&lt;script&gt;</b>") < page.index("00002</b>")
    assert page.count('<span class="kind">worst') == page.count('<span class="kind">random') == 1


def test_pictures_and_players_hold_the_clips(page: str) -> None:
    sources = Page(page).sources
    picture, player = (base64.b64decode(source.split(",", 1)[1]) for source in sources[:2])
    rows, columns = image.imread(io.BytesIO(picture)).shape[:2]
    assert rows == 128
    assert 200 < columns <= 480
    sound, rate = soundfile.read(io.BytesIO(player), dtype="float32")
    mixture = clip_of(0).mixture
    assert rate == RATE
    assert abs(len(sound) - len(mixture)) < 400
    n = min(len(sound), len(mixture))
    assert np.corrcoef(sound[:n], mixture[:n])[0, 1] > 0.7


def test_spectrograms_show_loud_as_bright_and_high_at_the_top() -> None:
    t = np.arange(2 * RATE) / RATE
    loud = 10 ** ((TOP_DB + 6) / 20) * np.sin(2 * np.pi * 7000 * t)
    quiet = 10 ** ((FLOOR_DB - 6) / 20) * np.sin(2 * np.pi * 1000 * t)
    sound = (loud * (t < 1) + quiet * (t >= 1)).astype(np.float32)
    light = image.imread(io.BytesIO(spectrogram_png(sound, RATE)))[..., :3].sum(axis=2)
    rows, columns = light.shape
    row, _ = np.unravel_index(light[:, : columns // 3].argmax(), (rows, columns // 3))
    assert row == pytest.approx(rows * (1 - 7000 / 8000), abs=2)
    assert light[:, -columns // 3 :].max() == light.min()


def test_a_page_too_big_omits_clips_and_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [clip_of(seed) for seed in range(2)]
    oracle = Oracle(clips)
    figures = evaluate(oracle, clips, 2)
    path = tmp_path / "report.html"
    chosen = dict.fromkeys(NAMES[:2], "worst")
    write_html(path, figures, oracle, clips, chosen, {"model": "m"})
    limit = path.stat().st_size - 50_000
    monkeypatch.setattr(report_html, "MAX_BYTES", limit)
    write_html(path, figures, oracle, clips, chosen, {"model": "m"})
    assert path.stat().st_size < limit
    text = path.read_text()
    assert f"{NAMES[0]}</b>" in text
    assert f"MB: {NAMES[1]}." in text


def test_a_failed_write_leaves_no_page(tmp_path: Path) -> None:
    oracle = Oracle([clip_of(0)])
    figures = evaluate(oracle, [clip_of(0)], 1)
    (tmp_path / "r.html").mkdir()
    with pytest.raises(
        OutputError, match=r"r.html can't be written: .* name another folder with --html"
    ):
        write_html(tmp_path / "r.html", figures, oracle, [], {}, {"model": "m"})
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_chosen_clips_are_the_worst_and_a_reproducible_sample() -> None:
    names = [f"{k:05d}" for k in range(50)]
    figures = {"worst": [{"clip": names[k]} for k in (7, 3, 11)]}
    chosen = choose_clips(figures, names)
    assert list(chosen)[:3] == [names[7], names[3], names[11]]
    assert list(chosen.values()) == ["worst"] * 3 + ["random"] * 10
    assert chosen == choose_clips(figures, names)
    assert list(chosen) != list(choose_clips(figures, names, seed=1))
    assert list(choose_clips(figures, names[3:4])) == [names[7], names[3], names[11]]


def test_the_command_gives_json_and_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.html"
    words = ["evaluate", "rtmtass-small", str(folder), "--clips", "2", "--json"]
    assert main([*words, "--html", str(path)]) == 0
    output = capsys.readouterr()
    figures = json.loads(output.out)
    assert output.err == ""
    assert figures["clips"] == 2
    assert set(perceptual.MEASURES) <= set(figures)
    separator = rtmtass.load()
    clips = read_set(folder, STEMS, first=2)
    assert figures == evaluate(separator, clips, 2, measures=perceptual.MEASURES)
    assert Page(path.read_text()).open == []
    assert main([*words, "--no-perceptual"]) == 0
    quick = json.loads(capsys.readouterr().out)
    assert quick == {k: v for k, v in figures.items() if k not in perceptual.MEASURES}


def test_the_command_prints_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "rtmtass-small", str(folder), "--clips", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:9]] == [
        "stem", *STEMS, "average", "speech", "PESQ", "STOI", "SI-SDRi",
    ]  # fmt: skip
    at = next(k for k, line in enumerate(lines) if line.startswith("leakage, only these"))
    assert [line.split("  ")[0] for line in lines[at + 1 : at + 7]] == [
        "speech + music", "speech + noise", "music + noise", *STEMS,
    ]  # fmt: skip
    assert lines[-3].startswith("silence in: -120 dBFS")
    assert lines[-1].startswith("worst clips: 00000 (")


def test_the_command_prints_the_effect_of_singing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sung = Path(shutil.copytree(folder, tmp_path / "sung"))
    words = ["evaluate", "rtmtass-small", str(folder), "--clips", "2", "--no-perceptual"]
    assert main([*words, "--singing", str(sung)]) == 1
    assert f"{sung} was mixed without singing; write it with" in capsys.readouterr().err
    (sung / "set.json").write_text(json.dumps({"singing": True}))
    page = tmp_path / "r.html"
    assert main([*words, "--singing", str(sung), "--html", str(page)]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("music SI-SDRi")]
    assert "difference 0.00 (0.00 … 0.00) dB" in line
    assert "with singing" in page.read_text()


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (["none"], 1, "holds no list.csv; write a set with: rtmtass data mix"),
        (["SET", "--clips", "0"], 2, "'0' is not a whole number; give 1 or more"),
        (["SET", "--html", "none/r.html"], 1, "no folder none; make it first"),
    ],
)
def test_errors_are_one_line(
    words: list[str], code: int, output: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder) if word == "SET" else word for word in words]
    try:
        exit_code: str | int | None = main(["evaluate", "rtmtass-small", *words])
    except SystemExit as stop:
        exit_code = stop.code
    assert exit_code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rtmtass: ")
    assert output in line


@pytest.mark.usefixtures("blocked")
def test_a_metric_without_its_package_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "rtmtass-small", str(folder), "--clips", "1"]
    assert main(words) == 0
    output = capsys.readouterr()
    assert "PESQ" not in output.out
    assert "STOI" in output.out
    assert output.err == (
        "left out: pesq can't be measured without pesq; get it with: pip install pesq\n"
    )


@pytest.mark.usefixtures("blocked")
def test_a_requested_metric_needs_its_package(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "rtmtass-small", str(folder), "--perceptual"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install pesq, or --no-perceptual" in line
    with pytest.raises(MissingPartError, match="pip install pesq"):
        perceptual.pesq(np.ones(9), np.ones(9), RATE)
