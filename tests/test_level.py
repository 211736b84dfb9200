"""The running level: robust to pops and to silence, the same in all runtimes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from networks import arrays, seasoned, tiny
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.net.layers import RunningLevel
from rtmtass.presets import small
from rtmtass.runtime.compiled.builder import Builder
from rtmtass.runtime.compiled.interpreter import execute
from rtmtass.runtime.compiled.lowering_shared import running_level
from rtmtass.runtime.compiled.program import encode
from rtmtass.runtime.compiled.spectral_ops import largest
from rtmtass.runtime.onnx.level import write_level
from rtmtass.runtime.onnx.nodes import Nodes, value, write_model
from rtmtass.separator import Separator, open_runtime
from rtmtass.weights import Model, demo_clip

Floats = NDArray[np.float32]
KNOCK_AT = 16000
"""First sample of the knock, one second into the sound."""


def small_with(**change: Any) -> ModelConfig:
    return dataclasses.replace(small(), net=dataclasses.replace(small().net, **change))


CONFIGS = {
    "pops": tiny(level_pop_s=0.02),
    "one_frame_is_enough": tiny(level_pop_s=0.002),
    "as_in_0.6": small_with(level_pop_s=0.0, level_half_life_s=1.0),
    "small": small(),
    "by_time": tiny(level_by_power=False),
}


def varied_powers(frames: int, seed: int = 0) -> Floats:
    """Speech-like powers with pops, silence, near-silence and denormals."""
    rng = np.random.default_rng(seed)
    power = rng.random(frames) ** 4 + 0.01
    power[rng.integers(0, frames, 12)] *= 3000
    power[frames // 3 : frames // 3 + 40] *= 1000
    power[frames // 2 : frames // 2 + 90] = 0
    power[frames // 2 + 20] = 1e-42
    power[-frames // 4 :] *= 1e-9
    power[-3:] = 1e-30
    return power.astype(np.float32)


def by_torch(config: ModelConfig, power: Floats, sizes: list[int]) -> Floats:
    level = RunningLevel(
        config.level_decay,
        config.net.level_by_power,
        config.level_window,
        config.level_rank,
        config.level_fall,
    )
    state, out, x = level.init_state(1), [], torch.from_numpy(power)[None, :, None]
    for part in x.split(sizes, dim=1):
        y, state = level.step(part, state)
        out.append(y[0, :, 0].numpy())
    return np.concatenate(out)


def by_compiled(config: ModelConfig, power: Floats, sizes: list[int], streams: int = 1) -> Floats:
    """Levels of one stream in chunks, or of the first and last of many streams."""
    chunk = max(sizes)
    make = Builder(chunk * streams, "f32", chunk)
    bins = config.stft.n_bins
    mixture = make.register(2 * bins, 1)
    target = running_level(make, config, mixture, bins)
    instructions, weights = encode(make.instructions), make.weights()
    state, work = np.zeros(make.state * streams, np.float32), np.zeros(make.work, np.float32)
    rows = work[mixture.at :][: mixture.stride * chunk * streams].reshape(-1, mixture.stride)
    out, at = [], 0
    for size in sizes:
        for t in range(max(size, streams)):
            # A frame's power in one bin, which is exact.
            scale = 1 if t in (0, streams - 1) or streams == 1 else 1000
            rows[t, :] = 0
            rows[t, 3] = scale * np.sqrt(power[at + (t if streams == 1 else 0)] * bins)
        frames = size if streams == 1 else streams
        execute(instructions, weights, state, work, at, frames, 0 if streams == 1 else make.state)
        result = work[target : target + frames].copy()
        out.append(result if streams == 1 else result[[0, -1]][None])
        at += size
    return np.concatenate(out)


def by_onnx(config: ModelConfig, power: Floats, sizes: list[int]) -> Floats:
    is_single = max(sizes) == 1
    nodes, bins = Nodes(), config.stft.n_bins
    nodes.inputs.append(value("rows", ("frames", 2 * bins)))
    nodes.outputs.append(value("level", ("frames", 1, 1, 1)))
    output = write_level(nodes, config, "rows", is_single=is_single)
    nodes.put("Identity", output, to="level")
    graph = write_model(nodes, "level", {})
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs, names = session.get_inputs()[1:], [o.name for o in session.get_outputs()]
    state = {i.name: np.zeros(i.shape, np.float32) for i in inputs}
    out, at = [], 0
    for size in sizes:
        rows = np.zeros((size, 2 * bins), np.float32)
        rows[:, 3] = np.sqrt(power[at : at + size] * bins)
        values = dict(zip(names, session.run(None, {"rows": rows, **state}), strict=True))
        out.append(values.pop("level").ravel())
        state = {name.replace("next.", "state."): array for name, array in values.items()}
        at += size
    return np.concatenate(out)


def sizes_of(frames: int, size: int) -> list[int]:
    return [size] * (frames // size) + ([frames % size] if frames % size else [])


@pytest.mark.parametrize("size", [1, 7, 512])
@pytest.mark.parametrize("name", CONFIGS)
def test_all_runtimes_have_the_same_level(name: str, size: int) -> None:
    config = CONFIGS[name]
    frames = 3 * config.level_window // 2 + 400
    power = varied_powers(frames)
    expected = by_torch(config, power.astype(np.float64), [frames])
    for run in (by_torch, by_compiled, by_onnx):
        ours = run(config, power, sizes_of(frames, size))
        np.testing.assert_allclose(ours, expected, rtol=2e-5, err_msg=run.__name__)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_level_has_the_same_bits_in_any_chunk_or_batch(name: str) -> None:
    config = CONFIGS[name]
    power = varied_powers(700)
    alone = by_compiled(config, power, [1] * 700)
    for size in (2, 7, 64, 699):
        np.testing.assert_array_equal(by_compiled(config, power, sizes_of(700, size)), alone)
    for streams in (2, 5):
        many = by_compiled(config, power, [1] * 700, streams)
        np.testing.assert_array_equal(many, np.stack([alone, alone], axis=1))


def test_largest_returns_the_value_of_that_rank() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.random(125) ** 8, np.zeros(125), np.full(125, 7.0), rng.random(125) * 1e-42]
    rows += [np.where(rng.random(125) < 0.1, rng.random(125), 0), np.array([*[0.0] * 124, 3e38])]
    for row in np.array(rows, np.float32):
        for rank in (1, 2, 22, 62, 125):
            assert largest(row, rank) == np.sort(row)[-rank]


def in_db(level: Floats) -> Floats:
    return 20 * np.log10(level)


def levels(config: ModelConfig) -> Callable[[Floats], Floats]:
    return lambda power: by_compiled(config, power, sizes_of(len(power), 32))


def test_a_pop_doesnt_move_the_level() -> None:
    """A pop of 0.1 s, 30 dB above a steady sound, 0.5 to 6 s into it."""
    old, new = levels(CONFIGS["as_in_0.6"]), levels(CONFIGS["small"])
    second = 62
    for before in (second // 2, 2 * second, 6 * second):
        power = np.ones(before + 4 * second, np.float32)
        power[before : before + 6] = 1000
        left_db = [in_db(level(power)) - in_db(level(power))[before - 1] for level in (old, new)]
        assert left_db[0][before + 6 + second] > 25  # without a window
        assert left_db[1][before + 6 + second // 4] < 4
        assert left_db[1][before + 6 + second] < 2
        assert left_db[1][before + 6 + 2 * second] < 1
        assert left_db[1][before:].min() > -0.1


def test_features_are_limited_during_a_pop() -> None:
    power = np.full(300, 1e-3, np.float32)
    power[200:206] = 100
    held = levels(CONFIGS["small"])(power)
    assert (power[200:206] / held[200:206] ** 2 <= 4.01).all()
    first = levels(CONFIGS["small"])(power[200:])  # also at the start of a stream
    assert (power[200:206] / first[:6] ** 2 <= 4.01).all()


def test_the_level_follows_a_sustained_sound() -> None:
    """Within half a second of a lasting step of 30 dB."""
    power = np.ones(400, np.float32)
    power[200:] = 1000
    gained_db = in_db(levels(CONFIGS["small"])(power))
    assert abs(gained_db[231] - 30) < 0.5
    assert gained_db[200] > 20


def test_the_level_follows_a_quieter_scene() -> None:
    """30 dB below the one before, within 6 s; with a half-life of a second it takes 20 s."""
    power = np.ones(62 * 14, np.float32)
    power[62 * 4 :] = 1e-3
    fallen_db = -in_db(levels(CONFIGS["small"])(power))
    assert fallen_db[62 * 10] > 25
    assert fallen_db[62 * 13] > 29
    slow = small_with(level_half_life_s=1.0)
    assert -in_db(levels(slow)(power))[62 * 13] < 5


def test_the_level_holds_through_a_soft_pause() -> None:
    """A background 40 dB below the sound, for 3 s."""
    power = np.ones(62 * 6, np.float32)
    power[62 * 3 :] = 1e-4
    held_db = in_db(levels(CONFIGS["small"])(power))
    np.testing.assert_allclose(held_db[62 * 3 :], 0, atol=1)


def test_the_level_holds_through_silence() -> None:
    """Through a pause of any length, and when the sound returns."""
    level = levels(CONFIGS["small"])
    sound = np.random.default_rng(0).random(150).astype(np.float32) ** 2 + 0.1
    for pause, most_db in ((20, 1), (130, 4), (600, 8)):
        found_db = in_db(level(np.concatenate([sound, np.zeros(pause, np.float32), sound])))
        np.testing.assert_allclose(found_db[150 : 150 + pause], found_db[149], atol=0.1)
        np.testing.assert_allclose(found_db[150 + pause :], found_db[149], atol=most_db)
        np.testing.assert_allclose(found_db[190 + pause :], found_db[149], atol=1.5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_level_scales_with_the_input(name: str) -> None:
    power = np.random.default_rng(1).random(400).astype(np.float32) + 0.1
    power[100:105] *= 1000
    soft, loud = (levels(CONFIGS[name])(scale * power) for scale in (1.0, 4096.0))
    np.testing.assert_allclose(loud, 64 * soft, rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_level_is_causal(name: str) -> None:
    power = varied_powers(600)[:300]
    other = np.concatenate([power[:200], 5 + 50 * power[200:]])
    level = levels(CONFIGS[name])
    np.testing.assert_array_equal(level(other)[:200], level(power)[:200])
    assert (level(other)[200:] != level(power)[200:]).any()


def test_autocast_doesnt_round_the_level() -> None:
    config = CONFIGS["small"]
    power = torch.from_numpy(varied_powers(400))[None, :, None]
    level = RunningLevel(
        config.level_decay,
        config.net.level_by_power,
        config.level_window,
        config.level_rank,
        config.level_fall,
    )
    plain, _ = level.step(power, level.init_state(1))
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = level.step(power, level.init_state(1))
    assert torch.equal(cast, plain)


def knocked(level_db: float) -> tuple[Floats, Floats]:
    """Return a sound at an RMS in dBFS, and the same with a knock of full scale, 0.1 s long."""
    clip = soundfile.read(demo_clip(), dtype="float32")[0]
    sound = clip * (10 ** (level_db / 20) / np.sqrt(np.mean(clip**2)))
    burst = np.random.default_rng(0).standard_normal(1600).astype(np.float32)
    hit = sound.copy()
    hit[KNOCK_AT : KNOCK_AT + 1600] += burst / np.abs(burst).max()
    return sound.astype(np.float32), hit.astype(np.float32)


def frame_powers(sound: Floats) -> Floats:
    """Return the mean power of each frame of 16 ms, (T,)."""
    frames = sound[: len(sound) // 256 * 256].reshape(-1, 256)
    return np.mean(np.square(frames, dtype=np.float64), axis=1).astype(np.float32)


@pytest.mark.parametrize("level_db", [-60, -50, -30])
def test_the_level_is_back_two_seconds_after_a_knock_of_full_scale(level_db: float) -> None:
    """A microphone that picks up a quiet room is knocked once."""
    sound, hit = knocked(level_db)
    back = -(-(KNOCK_AT + 1600 + 2 * 16000) // 256)
    excess_db = {}
    for name in ("as_in_0.6", "small"):
        level = levels(CONFIGS[name])
        excess_db[name] = in_db(level(frame_powers(hit))) - in_db(level(frame_powers(sound)))
    assert np.abs(excess_db["small"][back:]).max() < 1
    # The rule of the weights up to 0.6 is what takes longer, not the sound.
    assert excess_db["as_in_0.6"][back] > 10


def untrained(config: ModelConfig) -> Separator:
    """Return a separator of whole hops on an untrained network."""
    model = Model(Path(), config, arrays(seasoned(config)), {})
    return Separator(config, open_runtime(model, "numba", "cpu", "f32"), block=config.stft.hop)


def test_the_stems_are_back_two_seconds_after_a_knock() -> None:
    """An untrained network shows what the rule does: its masks follow what the level divides."""
    sound, hit = knocked(-50)
    after = slice(KNOCK_AT + 1600 + 2 * 16000, None)
    left_db = {}
    for pop_s in (0.0, 0.35):
        separator = untrained(tiny(level_pop_s=pop_s))
        calm, shaken = separator.separate(sound)[:, after], separator.separate(hit)[:, after]
        change = np.mean(np.square(calm - shaken, dtype=np.float64), axis=1)
        power = np.mean(np.square(calm, dtype=np.float64), axis=1)
        left_db[pop_s] = 10 * np.log10(change / power).max()
    assert left_db[0.35] < left_db[0.0] - 20
    assert left_db[0.35] < -25
