"""Released models: complete, loadable strictly, and true to their golden output."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import rtmtass
from rtmtass.errors import ModelError
from rtmtass.net.networks import new_network
from rtmtass.weights import (
    DEFAULT,
    as_safetensors,
    config_of,
    demo_clip,
    find,
    from_safetensors,
    open_model,
    released,
    renamed,
)

FOLDERS = released()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A writable copy of the default model."""
    return Path(shutil.copytree(find(DEFAULT), tmp_path / "model"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_release_is_complete(folder: Path) -> None:
    for name in ("model.safetensors", "config.json", "CARD.md", "metrics.json", "golden.npz"):
        assert (folder / name).is_file(), name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
@pytest.mark.parametrize("runtime", ["numba", "torch"])
def test_output_matches_the_golden_output(folder: Path, runtime: str) -> None:
    with np.load(folder / "golden.npz") as golden:
        separator = rtmtass.load(folder.name, runtime=runtime, precision="f32")
        stems = separator.separate(golden["mixture"])
        assert np.abs(golden["stems"]).max() > 0.01
        np.testing.assert_allclose(stems, golden["stems"], atol=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_card_matches_the_metrics(folder: Path) -> None:
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    results = card.split("## Results")[1].split("\n## ")[0]
    matches = re.finditer(r"^\| (speech|music|noise|average) \|.*$", results, re.M)
    rows = {match[1]: match[0] for match in matches}
    assert set(rows) == {"speech", "music", "noise", "average"}
    for stem, row in rows.items():
        for kind in ("si_sdri", "sdri"):
            value = metrics[kind][stem]
            assert f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})" in row
            assert value["low"] <= value["mean"] <= value["high"]
        if stem in metrics["leakage_db"]:
            value = metrics["leakage_db"][stem]
            assert f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})" in row
    for case in metrics.get("leakage_by_case_db", {}).values():
        for value in case.values():
            assert f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})" in results
    if "silence_dbfs" in metrics:  # measured since 0.3
        silence = metrics["silence_dbfs"]
        for name in ("from_start", "after_sound"):
            assert silence[name] < -80
            assert f"{silence[name]:.0f} dBFS" in results


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_torch_loads_the_weights_strictly(folder: Path) -> None:
    model = open_model(folder.name)
    net = new_network(model.config)
    values = {k: torch.from_numpy(v) for k, v in model.weights.items()}
    missing, unexpected = net.load_state_dict(values, strict=False)
    assert not unexpected
    assert [name for name in missing if not name.endswith("num_batches_tracked")] == []
    assert model.n_parameters == sum(p.numel() for p in net.parameters())


def test_demo_clip_exists_and_is_credited() -> None:
    clip = demo_clip()
    assert "| speech |" in (clip.parent / "CREDITS.md").read_text()


def test_altered_weights_are_rejected(copy: Path) -> None:
    path = copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"SHA-256 .* the file was altered"):
        open_model(str(copy))


def test_other_file_formats_are_rejected(copy: Path) -> None:
    data = b"\x80\x04N." * 10  # the start of a pickle
    (copy / "model.safetensors").write_bytes(data)
    config = json.loads((copy / "config.json").read_text())
    config["sha256"] = hashlib.sha256(data).hexdigest()
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="not a safetensors file"):
        open_model(str(copy))


def test_bytes_equal_those_of_the_safetensors_package() -> None:
    package = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    shapes = {"b.bias": (3,), "a.weight": (2, 5), "empty": (0, 4), "number": (), "größe": (1, 2, 3)}
    weights = {k: np.asarray(rng.standard_normal(s), np.float32) for k, s in shapes.items()}
    weights["a.half"] = rng.standard_normal((3, 5)).astype(np.float16)
    data = as_safetensors(weights)
    assert data == package.save(weights)
    for loaded in (from_safetensors(data), package.load(data)):
        assert set(loaded) == set(weights)
        for name, value in weights.items():
            np.testing.assert_array_equal(loaded[name], value)
            assert loaded[name].shape == value.shape


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}, "type I8, not F32 or F16"),
        ({"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 4]}}, "reshape"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "type .*, not F32"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, "outside the file"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "reshape"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "data_offsets"),
        (["a"], "items"),
    ],
)
def test_invalid_headers_are_rejected(header: object, message: str) -> None:
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(8)
    with pytest.raises((ValueError, KeyError, AttributeError), match=message):
        from_safetensors(data)
    with pytest.raises(ValueError, match="longer than the file"):
        from_safetensors(data[:10])


def test_missing_files_are_reported(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors can't be read: .*install"):
        open_model(str(copy))
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"can't be read as a model's config"):
        open_model(str(copy))


def test_old_config_keys_and_parameter_names_are_renamed():
    old = {"name": "x", "net": {"subband_told": 7, "compensation_hears_stage_one": False}}
    config = config_of(old)
    assert (config.net.subband_context, config.net.compensation_uses_trunk) == (7, False)
    names = {"trunk.enter.linear.weight": 1, "subbands.tell.norm.bias": 2, "leave": 3, "heads.0": 4}
    assert renamed(names) == {
        "trunk.in_proj.linear.weight": 1,
        "subbands.context_proj.norm.bias": 2,
        "out_proj": 3,
        "heads.0": 4,
    }
    assert config_of(config.to_dict()) == config
