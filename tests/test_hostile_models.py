"""Model folders that somebody made to harm, damaged or cut off: each is one clear line."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import arrays, seasoned, tiny

from rtmtass.errors import ModelError, OutputError
from rtmtass.net.networks import new_network
from rtmtass.weights import Model, as_safetensors, open_model, save_model

CONFIG = tiny(subband_bins=5, subband_overlap=2, subband_context=3, subband_channels=12)
WEIGHTS = arrays(seasoned(CONFIG))
GRU = "trunk.blocks.2.gru.bias_hh_l0"


def header_of(data: bytes) -> dict[str, Any]:
    return dict(json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]]))


def with_header(data: bytes, header: object) -> bytes:
    text = json.dumps(header).encode()
    body = data[8 + struct.unpack_from("<Q", data)[0] :]
    return struct.pack("<Q", len(text)) + text + body


def write_hostile(folder: Path, data: bytes, config: object = None) -> Path:
    """Write a model folder whose SHA-256 is right, whatever it holds."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    values = {"model": CONFIG.to_dict() if config is None else config}
    values["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def changed(**arrays_: Any) -> bytes:
    """The weights with arrays replaced; None removes one."""
    weights = {**WEIGHTS, **{name.replace("__", "."): v for name, v in arrays_.items()}}
    return as_safetensors({name: v for name, v in weights.items() if v is not None})


def one_value(name: str, value: float) -> bytes:
    array = WEIGHTS[name].copy()
    array.flat[0] = value
    return as_safetensors({**WEIGHTS, name: array})


def gru_of(shape: tuple[int, ...]) -> bytes:
    return as_safetensors({**WEIGHTS, GRU: np.zeros(shape, np.float32)})


GOOD = as_safetensors(WEIGHTS)
HOSTILE_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "GRU bias of size 0": (gru_of((0,)), r"bias_hh_l0 has the shape \(0,\), not \(60,\)"),
    "GRU bias of size 1": (gru_of((1,)), r"shape \(1,\), not"),
    "GRU bias of half the size": (gru_of((30,)), r"shape \(30,\), not"),
    "GRU bias as a number": (gru_of(()), r"shape \(\), not"),
    "GRU bias in three dimensions": (gru_of((1, 1, 60)), r"shape \(1, 1, 60\), not"),
    "missing": (changed(heads__0__linear__bias=None), "the weights lack heads.0.linear.bias"),
    "extra": (changed(backdoor=np.ones(3, np.float32)), "the weights hold backdoor, which the"),
    "none at all": (as_safetensors({}), r"the weights lack .* and \d+ more"),
    "NaN": (one_value(GRU, np.nan), "bias_hh_l0 holds NaN or Inf"),
    "Inf": (one_value("heads.0.linear.weight", -np.inf), "heads.0.linear.weight holds NaN or Inf"),
    "negative variance": (one_value("trunk.in_proj.norm.running_var", -1), "a negative variance"),
    "empty file": (b"", "the header is missing"),
    "cut header": (GOOD[:100], "the header is longer than the file"),
    "cut data": (GOOD[:-4], "is outside the file"),
    "huge header length": (struct.pack("<Q", 2**63) + GOOD[8:], "longer than the file"),
    "header isn't JSON": (struct.pack("<Q", 8) + b"\x80\x04N.    " + GOOD, "isn't JSON"),
    "nested header": (struct.pack("<Q", 200_000) + b"[" * 200_000, "nested too deeply"),
    "far more data than the network": (GOOD + bytes(17_000_000), "larger than its config"),
    **{
        f"type {kind}": (
            with_header(GOOD, {**header_of(GOOD), GRU: {**header_of(GOOD)[GRU], "dtype": kind}}),
            f"has type {kind}, not F32",
        )
        for kind in ("BF16", "F8_E4M3", "F64", "I64")
    },
    **{
        f"offsets {offsets}": (
            with_header(
                GOOD, {**header_of(GOOD), GRU: {**header_of(GOOD)[GRU], "data_offsets": offsets}}
            ),
            message,
        )
        for offsets, message in (
            ([-240, 0], "for a list of sizes"),
            ([240, 0], "has the data_offsets"),
            ([0, 10**30], "for a list of sizes"),
            ([0.0, 240.0], "for a list of sizes"),
            ("0240", "for a list of sizes"),
            ([0, 239], "can't be reshaped"),
            ([0], "data_offsets"),
        )
    },
}


@pytest.mark.parametrize("case", HOSTILE_WEIGHTS)
def test_hostile_weights_are_one_clear_line(case: str, tmp_path: Path) -> None:
    data, message = HOSTILE_WEIGHTS[case]
    with pytest.raises(ModelError, match=rf"^[^\n]*model\.safetensors[^\n]*{message}[^\n]*$"):
        open_model(str(write_hostile(tmp_path / "m", data)))


def test_a_sound_model_of_the_same_kind_opens(tmp_path: Path) -> None:
    model = open_model(str(write_hostile(tmp_path / "m", GOOD)))
    assert model.config == CONFIG
    np.testing.assert_equal(model.weights, WEIGHTS)


HOSTILE_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "lookahead": ({"lookahead": 1_000_000}, "lookahead must be 0 to 256, not 1000000"),
    "one dilation": ({"dilations": [1, 10**7]}, "dilations must be 1 to 65536, not 10000000"),
    "dilations of 1e18": ({"dilations": [10**18]}, "dilations must be 1 to 65536"),
    "a number without end": ({"channels": 10**400}, "channels must be 1 to 8192, not a number of"),
    "many dilations": ({"dilations": [1] * 10_000}, "at most 256 values, not 10000"),
    "large dilations": ({"dilations": [65536] * 256, "hidden": 512}, "would take|million"),
    "wide": ({"channels": 8192, "recurrent": 8192}, "more than 250 million parameters"),
    "a text": ({"channels": "24"}, "channels must be a whole number, not '24'"),
    "a float": ({"channels": 24.0}, "channels must be a whole number, not 24.0"),
    "true": ({"channels": True}, "channels must be a whole number, not True"),
    "a list": ({"channels": [24]}, "channels must be a whole number"),
    "no list": ({"dilations": 3}, "dilations must be a list of whole numbers, not 3"),
    "null": ({"kernel": None}, "kernel must be a whole number, not None"),
    "negative": ({"kernel": -1}, "kernel must be 1 to 64, not -1"),
    "NaN": ({"mask_limit": float("nan")}, "mask_limit must be finite, not nan"),
    "infinite": ({"level_half_life_s": float("inf")}, "level_half_life_s must be finite"),
    "zero": ({"level_half_life_s": 0}, "level_half_life_s must be 0.001 to 10000, not 0"),
    "GRUs of no units": ({"recurrent": 0}, "recurrent must be 1 or more"),
    "an unhashable target": ({"target": ["x"]}, "target must be a text"),
    "sample_rate 0": ({"sample_rate": 0}, "sample_rate must be 1000 to 768000, not 0"),
    "n_fft": ({"n_fft": 2**40, "synthesis": 2**40, "hop": 2**39}, "n_fft must be 8 to 65536"),
    "a stem that is a path": ({"stems": ["../../x"]}, "stems must be names of up to 32 letters"),
    "an absolute stem": ({"stems": ["/etc/x"]}, "stems must be names"),
    "a stem with a line": ({"stems": ["a\nb"]}, "stems must be names"),
    "an empty stem": ({"stems": [""]}, "stems must be names"),
    "two stems of one name": ({"stems": ["a", "A"]}, "stems must be 1 to 16 different names"),
    "no stems": ({"stems": []}, "stems must be 1 to 16 different names"),
    "1,000 stems": ({"stems": [f"s{n}" for n in range(1000)]}, "1 to 16 different names"),
    "a name with an escape": ({"name": "x\x1b[2J"}, "name must be a line of 1 to 200 characters"),
    "net is a list": ({"net": [1]}, "must hold tables, not"),
    "stft is null": ({"stft": None}, "must hold tables, not None"),
    "a path": (
        {"weights": "/etc/passwd"},
        "unknown keys in the model's config: weights; the model",
    ),
    "a key of 10,000 letters": ({"x" * 10_000: 1}, "unknown keys in the model's config: 'xxx"),
}


@pytest.mark.parametrize("case", HOSTILE_CONFIGS)
def test_hostile_configs_are_one_clear_line(case: str, tmp_path: Path) -> None:
    changes, message = HOSTILE_CONFIGS[case]
    config = CONFIG.to_dict()
    for key, value in changes.items():
        part = next((p for p in ("net", "stft") if key in config[p]), None)
        (config[part] if part else config)[key] = value
    folder = write_hostile(tmp_path / "m", GOOD, config)
    with pytest.raises(ModelError, match=rf"^[^\n]*config\.json[^\n]*{message}[^\n]*$") as caught:
        open_model(str(folder))
    assert len(str(caught.value)) < 500 + len(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe{",
        b"[" * 200_000,
        b'{"model": 3}',
        b"{}",
        b'{"model": {}, "x": "' + b"y" * 5_000_000 + b'"}',
    ],
)
def test_a_config_that_is_no_config_is_one_clear_line(text: bytes, tmp_path: Path) -> None:
    folder = write_hostile(tmp_path / "m", GOOD)
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ModelError, match=r"^[^\n]*config\.json can't be read as a model's config"):
        open_model(str(folder))


def opened_or_refused(folder: Path) -> Model | None:
    """Open a model; None if it is refused in one line."""
    try:
        return open_model(str(folder))
    except ModelError as error:
        if "\n" in str(error):
            raise AssertionError(f"several lines: {error}") from error
        return None


def test_mutated_models_open_or_are_one_clear_line(tmp_path: Path) -> None:
    """200 seeded mutations of a header or config; what opens still has every shape right."""
    rng = np.random.default_rng(5)
    n_header = 8 + struct.unpack_from("<Q", GOOD)[0]
    text = json.dumps(CONFIG.to_dict())
    opened = 0
    for number in range(200):
        data, config = bytearray(GOOD), text
        if number % 2:
            for at in rng.integers(0, n_header, rng.integers(1, 4)):
                data[at] = rng.choice(list(b'0123456789-.eE"[]{},:\x00\xff' + bytes([data[at]])))
        else:
            at = int(rng.integers(0, len(config)))
            piece = str(rng.choice(["9", "-", "1e9", "null", '"', "[", "]", "{", ".5", "true", ""]))
            config = config[:at] + piece + config[at + int(rng.integers(0, 3)) :]
        folder = write_hostile(tmp_path / "m", bytes(data))
        values = f'{{"sha256": "{hashlib.sha256(bytes(data)).hexdigest()}", "model": {config}}}'
        (folder / "config.json").write_text(values)
        model = opened_or_refused(folder)
        if model is not None:
            opened += 1
            new_network(model.config).load_state_dict(
                {k: torch.from_numpy(v) for k, v in model.weights.items()}, strict=False
            )
    assert 2 < opened < 150


# --- saving ------------------------------------------------------------------------------------


def test_a_save_killed_between_its_renames_is_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "best"
    save_model(folder, CONFIG, GOOD, {"version": "1"})
    newer = one_value("heads.0.linear.bias", 0.5)
    replace = Path.replace

    def killed(part: Path, target: Path) -> Path:
        if target.name == "config.json":
            raise KeyboardInterrupt
        return replace(part, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(folder, CONFIG, newer, {"version": "2"})
    model = open_model(str(folder))
    assert model.about["version"] == "2"
    assert model.weights["heads.0.linear.bias"][0] == 0.5
    save_model(folder, CONFIG, GOOD, {"version": "3"})
    assert open_model(str(folder)).about["version"] == "3"
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_leaves_the_saved_model_as_it_was(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "best"
    save_model(folder, CONFIG, GOOD, {})
    calls: list[int] = []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("rtmtass.weights.os.fsync", full)
    with pytest.raises(OutputError, match="best can't be written: the disk is full"):
        save_model(folder, CONFIG, one_value(GRU, 3.0), {})
    np.testing.assert_equal(open_model(str(folder)).weights, WEIGHTS)
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}
